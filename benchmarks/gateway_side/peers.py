"""The peers: where each comes from, and how it is started before the mocks.

All choose in turn, write no line for a request, and otherwise run as they come. `note` stands in the page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gateway_side import answers
from benchmarks.gateway_side.gateway import Gateway, Running, await_answer, process
from benchmarks.gateway_side.mocks import Mocks
from benchmarks.side_by_side import environment
from benchmarks.side_by_side.cell import free_port
from benchmarks.side_by_side.processes import CellError

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
FOLDER = environment.FOLDER.with_name(".gateways")


@dataclass(frozen=True, slots=True)
class Site:
    """What a start is made of. `binaries` is where its environment keeps commands."""

    binaries: Path
    folder: Path
    port: int
    mocks: Mocks


@dataclass(frozen=True, slots=True)
class Peer:
    """`command` may write into the site's folder. What is `installed` has an environment of its own."""

    name: str
    note: str
    command: Callable[[Site], list[str]]
    installed: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    patience: int = 1

    @property
    def requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"

    def start(self, stack: ExitStack, mocks: Mocks) -> Running:
        """Raises `CellError`."""
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="wrk-bench-")))
        binaries = self._environment() if self.installed else folder
        port = free_port()
        command = self.command(Site(binaries, folder, port, mocks))
        if shutil.which(command[0]) is None:
            raise CellError(f"{Path(command[0]).name} is not installed")
        started = stack.enter_context(process(command, self.env))
        await_answer(port, lambda: started.poll() is None)
        return Running(port, (started.pid,), mocks.pids)

    def _environment(self) -> Path:
        return environment.ready(FOLDER / self.name, self.requirements).parent

    def gateway(self, mocks: Mocks) -> Gateway:
        return Gateway(self.name, lambda stack: self.start(stack, mocks), patience=self.patience)


def _router(*begin: str) -> Callable[[Site], list[str]]:
    """The three routers in Rust have one ancestor, and most flags in common."""

    def command(site: Site) -> list[str]:
        return [
            str(site.binaries / begin[0]),
            *begin[1:],
            *("--host", "127.0.0.1", "--port", str(site.port)),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
            *("--worker-urls", *site.mocks.urls),
            *("--worker-startup-check-interval", "1"),
            *("--policy", "round_robin", "--log-level", "error"),
        ]

    return command


def _litellm(site: Site) -> list[str]:
    settings = {
        "model_list": [
            {
                "model_name": answers.MODEL,
                "litellm_params": {
                    "model": f"openai/{answers.MODEL}",
                    "api_base": f"{url}/v1",
                    "api_key": "none",
                },
            }
            for url in site.mocks.urls
        ],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},  # it listens on loopback
    }
    path = site.folder / "litellm.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    listen = ("--host", "127.0.0.1", "--port", str(site.port))
    return [str(site.binaries / "litellm"), "--config", str(path), *listen]


def _haproxy(site: Site) -> list[str]:
    servers = "\n".join(f"  server m{port} 127.0.0.1:{port}" for port in site.mocks.ports)
    path = site.folder / "haproxy.cfg"
    path.write_text(
        f"""global
  log stderr local0 err
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 120s
  timeout server 120s
listen all
  bind 127.0.0.1:{site.port}
  balance roundrobin
{servers}
"""
    )
    return ["haproxy", "-db", "-f", str(path)]


PEERS = (
    Peer(
        "vllm-router",
        "In turn instead of by its cache-aware policy, which would read prompts; two threads, one a core.",
        _router("vllm-router"),
    ),
    Peer("smg", "As vllm-router; the backend is named vllm.", _router("smg", "launch", "--backend", "vllm")),
    Peer("sglang-router", "As vllm-router.", _router("sglang-router", "launch")),
    Peer(
        "haproxy",
        "The ceiling: it reads no body. Two threads, one a core; upstream connections are shared, and small "
        "writes are not held back.",
        _haproxy,
        installed=False,
    ),
    Peer(
        "litellm",
        "Its proxy with one worker process, its default, and its list of prices from the package.",
        _litellm,
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        patience=2,
    ),
)


def versions() -> list[str]:
    """Of what the environments hold and the system has, as far as it is there."""
    installed = [
        pin.replace("==", " ")
        for peer in PEERS
        if peer.installed
        for pin in environment.pins(peer.requirements)
        if pin.startswith(f"{peer.name}==")
    ]
    return [*installed, *(said for program in ("haproxy", "wrk") if (said := _version(program)))]


def _version(program: str) -> str:
    """The first line that it says of itself."""
    path = shutil.which(program)
    if path is None:
        return ""
    told = subprocess.run([path, "-v"], capture_output=True, text=True, check=False).stdout
    return told.partition("\n")[0].partition(" - ")[0].partition(" Copyright")[0]
