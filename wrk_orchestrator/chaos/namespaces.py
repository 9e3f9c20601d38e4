"""A small network inside this process's own network namespace: racks on cables that can be pulled.

The process itself and its orchestrators are at one end of a bridge; each `Host` is a namespace behind a cable
of its own. `confinement` has a command run in namespaces of its own, where all of this is allowed to an
ordinary user, touches nothing of the machine's network, and is gone with the last process. Linux alone.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType

from wrk_base.errors import StartError

NETWORK = "10.77.0"
HERE = f"{NETWORK}.1"
TOOLS = ("unshare", "nsenter", "ip", "tc")
CONFINED = ("unshare", "--user", "--map-root-user", "--net", "--")
CONFINED_AS_ROOT = ("unshare", "--net", "--")
TRY_SECONDS = 10.0
GROUP = "224.0.0.250"
HEARD_WITHIN_SECONDS = 0.5
SEND = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[3]))
sock.sendto(b"heard", (sys.argv[1], int(sys.argv[2])))
"""


def confinement() -> Sequence[str]:
    """The beginning of a command line that runs the rest in a network of its own. Raises `StartError`."""
    if sys.platform != "linux":
        raise StartError("this scenario needs network namespaces, which Linux alone has")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise StartError(
            f"this scenario needs the commands {', '.join(missing)} (packages util-linux and iproute2)"
        )
    for command in (CONFINED, CONFINED_AS_ROOT):
        if _runs([*command, "ip", "link", "set", "lo", "up"]):
            return command
    raise StartError("this scenario needs network namespaces, which are not allowed to this user here")


def _runs(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=TRY_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Host:
    """A namespace behind one cable; `inside` is the beginning of a command line that runs in it."""

    def __init__(self, number: int) -> None:
        self.address = f"{NETWORK}.{number + 2}"
        self._near, self._far = f"c{number}", f"e{number}"
        self._holder: asyncio.subprocess.Process | None = None

    @property
    def inside(self) -> tuple[str, ...]:
        assert self._holder is not None
        return ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")

    async def __aenter__(self) -> Host:
        # Who holds the namespace ends with its input, and so with this process.
        self._holder = await asyncio.create_subprocess_exec(
            "unshare", "--net", "--", "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"\n")
        await self._holder.stdout.readexactly(1)  # from now on it is in a namespace of its own
        await _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far)
        await _ip("link", "set", self._far, "netns", str(self._holder.pid))
        await _ip("link", "set", self._near, "master", "br0", "up")
        await self._ip_in("link", "set", "lo", "up")
        await self._ip_in("addr", "add", f"{self.address}/24", "dev", self._far)
        await self._ip_in("link", "set", self._far, "up")
        await self._ip_in("route", "add", "default", "dev", self._far)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holder is not None and self._holder.stdin is not None:
            self._holder.stdin.close()
            await self._holder.wait()

    async def unplug(self) -> None:
        """Packets vanish both ways; no connection is closed."""
        await _ip("link", "set", self._near, "down")

    async def plug(self) -> None:
        await _ip("link", "set", self._near, "up")

    async def mute(self) -> None:
        """What it sends to here vanishes; what is sent to it arrives."""
        await self._ip_in("route", "add", "blackhole", f"{HERE}/32")

    async def unmute(self) -> None:
        await self._ip_in("route", "del", "blackhole", f"{HERE}/32")

    async def deafen(self) -> None:
        """What is sent to it from here vanishes; what it sends arrives."""
        await _ip("route", "add", "blackhole", f"{self.address}/32")

    async def undeafen(self) -> None:
        await _ip("route", "del", "blackhole", f"{self.address}/32")

    async def silence(self) -> None:
        """No multicast of IPv4 leaves it any more: at the bridge it is turned into a cable without an end."""
        pit = f"p{self._near}"
        await _ip("link", "add", pit, "type", "veth", "peer", "name", f"q{self._near}")
        await _ip("link", "set", pit, "up")
        await _run("tc", "qdisc", "add", "dev", self._near, "ingress")
        await _run(
            *("tc", "filter", "add", "dev", self._near, "parent", "ffff:", "protocol", "ip", "u32"),
            *("match", "ip", "dst", "224.0.0.0/4", "action", "mirred", "egress", "redirect", "dev", pit),
        )
        await _ip("link", "set", self._near, "type", "bridge_slave", "mcast_flood", "off")

    async def _ip_in(self, *words: str) -> None:
        await _run(*self.inside, "ip", *words)


async def lay_out() -> None:
    """The bridge, and this process at it. In a network of its own, never in the machine's."""
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        raise StartError("not in a network of its own: nothing is changed in that of the machine")
    await _ip("link", "set", "lo", "up")
    # Without a querier a snooping bridge drops the multicast that mDNS lives on.
    await _ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    await _ip("addr", "add", f"{HERE}/24", "dev", "br0")
    await _ip("link", "set", "br0", "up")
    await _ip("route", "add", "default", "dev", "br0")


async def multicast_arrives(host: Host) -> bool:
    """Whether what the host sends to a group is heard here."""
    heard = asyncio.Event()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(GROUP, HERE))
    sock.bind(("", 0))
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, heard.set)
    try:
        await _run(*host.inside, sys.executable, "-c", SEND, GROUP, str(sock.getsockname()[1]), host.address)
        await asyncio.wait_for(heard.wait(), HEARD_WITHIN_SECONDS)
    except (StartError, TimeoutError):  # it cannot even send
        return False
    finally:
        loop.remove_reader(sock)
        sock.close()
    return True


def _membership(group: str, address: str) -> bytes:
    return socket.inet_aton(group) + socket.inet_aton(address)


async def _ip(*words: str) -> None:
    await _run("ip", *words)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    if process.returncode:
        raise StartError(f"{' '.join(command)}: {complaint.decode(errors='replace').strip()}")
