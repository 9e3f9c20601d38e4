"""Three hosts on one LAN, inside this machine: network namespaces joined by a bridge.

Needs root and `ip`; where the kernel or the container does not allow it, `why_not` says so. All names
carry a random part, addresses are private to the namespaces, and everything is removed afterwards.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from types import TracebackType

NETWORK = "10.77.0"
NOBODY = "02:00:00:00:00:00"


def why_not() -> str:
    """The reason why no namespaces can be made here; empty when they can."""
    if shutil.which("ip") is None:
        return "the command `ip` is missing (package iproute2)"
    name = f"wrk-try-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces are not allowed here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Lan:
    """A bridge in a namespace of its own and one namespace a host; `address(host)`, `run_in(host)`."""

    def __init__(self, *hosts: str) -> None:
        self._tag = secrets.token_hex(2)
        self._hosts = hosts

    def address(self, host: str) -> str:
        return f"{NETWORK}.{self._hosts.index(host) + 1}"

    def run_in(self, host: str) -> list[str]:
        """The start of a command line that runs in the host's namespace."""
        return ["ip", "netns", "exec", self._space(host)]

    def unplug(self, host: str) -> None:
        """Pull the host's cable: packets vanish, no connection is closed."""
        self._ip_in("switch", "link", "set", f"p-{host}", "down")

    def plug(self, host: str) -> None:
        self._ip_in("switch", "link", "set", f"p-{host}", "up")

    def lose(self, host: str, to: str) -> None:
        """What `host` sends to the other is lost, and nothing else: it goes to a card that nobody has."""
        self._ip_in(host, "neigh", "replace", *self._neighbour(to), "lladdr", NOBODY, "nud", "permanent")

    def lose_no_more(self, host: str, to: str) -> None:
        self._ip_in(host, "neigh", "del", *self._neighbour(to))

    def multicast(self, *, passes: bool) -> None:
        """Whether the switch passes multicasts on, as some do not."""
        for host in self._hosts:
            self._ip_in(
                "switch", "link", "set", f"p-{host}", "type", "bridge_slave", "mcast_flood", _word(passes)
            )

    def _neighbour(self, host: str) -> tuple[str, ...]:
        return self.address(host), "dev", "eth0"

    def __enter__(self) -> Lan:
        try:
            self._ip("netns", "add", self._space("switch"))
            # Without a querier a snooping bridge drops the multicast that mDNS lives on.
            self._ip_in("switch", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            self._ip_in("switch", "link", "set", "br0", "up")
            for host in self._hosts:
                self._join(host)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _join(self, host: str) -> None:
        space = self._space(host)
        self._ip("netns", "add", space)
        self._ip_in("switch", "link", "add", f"p-{host}", "type", "veth", "peer", "eth0", "netns", space)
        self._ip_in("switch", "link", "set", f"p-{host}", "master", "br0", "up")
        self._ip_in(host, "link", "set", "lo", "up")
        self._ip_in(host, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        self._ip_in(host, "link", "set", "eth0", "up")
        self._ip_in(host, "route", "add", "default", "dev", "eth0")

    def _remove(self) -> None:
        for host in ("switch", *self._hosts):
            subprocess.run(["ip", "netns", "del", self._space(host)], capture_output=True)

    def _space(self, host: str) -> str:
        return f"wrk-{self._tag}-{host}"

    def _ip_in(self, host: str, *words: str) -> None:
        self._ip("-n", self._space(host), *words)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _word(on: bool) -> str:
    return "on" if on else "off"
