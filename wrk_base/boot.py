"""From a command line to a running worker: arguments, settings, worker class, run until signalled.

    wrk worker --wtype TYPE --rack NAME --env ENV [--debug] [--KEY VALUE ...]

Types are entry points of the group `wrk.workers` (`wrk-rack-sim`) or `package.module:Class`. Everything
that stops the start is one line on standard error and exit code 1; wrong usage is 2. What a worker's own
code raises is shown with its traceback. The first SIGINT or SIGTERM drains, a second one stops waiting.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import structlog
import uvloop

from . import clock, descriptors, memory
from . import log as logging
from .config import Settings
from .discovery import Discoveries, Discovery, combine
from .discovery.addresses import resolve_interface
from .discovery.advert import StaticPeer, parse_peer
from .discovery.local import LocalDiscovery
from .discovery.mdns import MdnsDiscovery
from .discovery.reach import Network, parse_ranges
from .discovery.static import StaticDiscovery
from .errors import StartError
from .rpc.identity import Identity
from .rpc.zmq_link import ZmqNetwork
from .rpc_limits import link_options
from .security.curve_keys import load_or_make
from .security.membership import Membership
from .security.mesh_files import MeshFiles
from .security.roles import ORCHESTRATOR
from .settings_loader import Loaded, load, show
from .state import StateDir, default_state_dir
from .status import StatusFile
from .worker import Worker, WorkerContext

GROUP = "wrk.workers"
RACK_PREFIX = "wrk-rack-"
NO_MESH_LOOK_SECONDS = 0.25
THREADS_SECONDS = 2.0  # for threads of handlers to end once the worker has stopped
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
COLLECT_AFTER = (10_000, 20, 20)  # objects more than before, then rounds of the generation below

USAGE = """usage: wrk worker --wtype TYPE [--rack NAME] [--env development|production|staging|test] [--debug]
                  [--config DIR] [--state-dir DIR] [--interface NAME|ADDRESS] [--show-config]
                  [--KEY VALUE ...]
"""


class UsageError(Exception):
    """The command line cannot be understood."""


@dataclass(slots=True)
class Arguments:
    """A command line, taken apart. `flags` are the settings named on it, in order."""

    wtype: str = ""
    rack: str = "main"
    env: str = "development"
    config: Path | None = None
    state_dir: Path | None = None
    show_config: bool = False
    flags: list[tuple[str, str]] = field(default_factory=list)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Arguments:
    """Raises `UsageError`. `WRK_CONFIG`, `WRK_STATE_DIR`, `WRK_ENV` and `WRK_RACK` stand in for flags."""
    config, state = environ.get("WRK_CONFIG"), environ.get("WRK_STATE_DIR")
    arguments = Arguments(
        rack=environ.get("WRK_RACK") or "main",
        env=environ.get("WRK_ENV") or "development",
        config=Path(config) if config else None,
        state_dir=Path(state) if state else None,
    )
    rest = list(argv)
    while rest:
        name, value = _next_flag(rest)
        if name == "show-config":
            arguments.show_config = True
        elif name in ("wtype", "rack", "env"):
            setattr(arguments, name, _required(name, value))
        elif name == "config":
            arguments.config = Path(_required(name, value))
        elif name == "state-dir":
            arguments.state_dir = Path(_required(name, value))
        else:
            arguments.flags.append((name, "true" if value is None else value))
    return arguments


def _next_flag(rest: list[str]) -> tuple[str, str | None]:
    """Take `--name value`, `--name=value` or a bare `--name` off the front."""
    word = rest.pop(0)
    if not word.startswith("--") or len(word) < 3:
        raise UsageError(f"unexpected {word!r}: settings are given as --KEY VALUE")
    name, has_value, value = word[2:].partition("=")
    if has_value:
        return name, value
    if name != "show-config" and rest and not rest[0].startswith("--"):
        return name, rest.pop(0)
    return name, None


def _required(name: str, value: str | None) -> str:
    if not value:
        raise UsageError(f"--{name} needs a value")
    return value


def find_class(wtype: str) -> type[Worker]:
    """The worker class of a type name or of `package.module:Class`; raises `StartError`."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if wtype in known:
        found = _import_class(known[wtype].value)
    elif ":" in wtype:
        found = _import_class(wtype)
    else:
        names = ", ".join(sorted(known)) or "none is installed"
        raise StartError(f"unknown worker type {wtype!r}; there are {names}, and package.module:Class")
    if not (isinstance(found, type) and issubclass(found, Worker)):
        raise StartError(f"{wtype} is no subclass of wrk_base.worker.Worker")
    return found


def _import_class(path: str) -> object:
    module, _, name = path.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever its code does
        raise StartError(f"cannot import {module}: {_where(error)}") from error
    try:
        return getattr(found, name)
    except AttributeError:
        raise StartError(f"the module {module} has no class {name}") from None


def _where(error: Exception) -> str:
    """The error in one line; with its place, if it is the module's own fault."""
    if isinstance(error, ImportError | SyntaxError):  # these say it themselves
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"


def _sections_of_racks() -> tuple[str, ...]:
    """Sections of other types in a shared file are no mistake; a rack's section is named after its kind."""
    return tuple(
        entry.name.removeprefix(RACK_PREFIX)
        for entry in entry_points(group=GROUP)
        if entry.name.startswith(RACK_PREFIX)
    )


def load_settings(kind: type[Worker], arguments: Arguments, environ: Mapping[str, str]) -> Loaded:
    """Raises `StartError`: `SettingsError`, or that the directory of the settings files is not there."""
    if arguments.config is not None and not arguments.config.is_dir():
        raise StartError(f"--config or WRK_CONFIG: {arguments.config} is no directory")
    return load(
        config_dir=arguments.config,
        env=arguments.env,
        environ=environ,
        flags=arguments.flags,
        section=kind.section,
        section_type=kind.section_type,
        known_sections=_sections_of_racks(),
    )


def main(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run one worker to its end; returns the exit code."""
    environ = os.environ if environ is None else environ
    try:
        if sys.platform not in ("linux", "darwin"):
            raise StartError("wrk runs on Linux and macOS; on Windows, use WSL 2")
        if "--help" in argv or "-h" in argv:
            print(USAGE, end="")
            return 0
        arguments = parse(argv, environ)
        if not arguments.wtype:
            raise UsageError("--wtype names the type of worker to run")
        kind = find_class(arguments.wtype)
        loaded = load_settings(kind, arguments, environ)
        if arguments.show_config:
            print(show(loaded))
            return 0
        return run(kind, loaded, arguments, environ)
    except UsageError as error:
        print(f"wrk: {error}\n{USAGE}", end="", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"wrk: {error}", file=sys.stderr)
        return 1


def run(kind: type[Worker], loaded: Loaded, arguments: Arguments, environ: Mapping[str, str]) -> int:
    """Take the state directory, then live in the event loop. Raises `StartError`."""
    settings = loaded.settings
    level = settings.log.level if settings.log.level != "auto" else ("debug" if settings.debug else "info")
    everything = settings.log.bodies or level == "debug"
    most = None if everything else settings.log.same_events
    calm = logging.configure(format=settings.log.format, level=level, most=most)
    rng = Random(SystemRandom().getrandbits(128))
    state = StateDir(arguments.state_dir or default_state_dir(environ))
    prefix = (
        f"{arguments.wtype}-{arguments.rack}"
        if ":" not in arguments.wtype
        else f"{kind.__name__}-{arguments.rack}"
    )
    lock = state.lock(prefix)
    try:
        own = state.identity(prefix, arguments.rack, rng)
        be_quick()
        identity = Identity(own.instance_id, own.epoch, kind.role, arguments.rack)
        return _run_to_the_end(
            _live(kind, loaded, arguments, identity, state.path, prefix, rng, environ, calm)
        )
    finally:
        calm.sum_up()
        lock.release()


async def _live(
    kind: type[Worker],
    loaded: Loaded,
    arguments: Arguments,
    identity: Identity,
    state_dir: Path,
    prefix: str,
    rng: Random,
    environ: Mapping[str, str],
    calm: logging.Calm,
) -> int:
    log = logging.get_logger(rack=arguments.rack)
    stop = _StopOnSignals()
    _raise_descriptor_limit(log)
    settings = _affordable(loaded.settings, log)
    _sum_up(asyncio.get_running_loop(), calm)
    if not await _in_a_mesh(kind, MeshFiles(state_dir, settings.discovery.mesh), stop, log):
        return 0
    membership = _membership(kind, settings, identity, state_dir, prefix, log)
    host = resolve_interface(settings.interface)
    network = ZmqNetwork(asyncio.get_running_loop(), link_options(settings), membership)
    context = WorkerContext(
        settings=settings,
        section=loaded.section,
        identity=identity,
        wtype=prefix[: -len(arguments.rack) - 1],
        rack=arguments.rack,
        state_dir=state_dir,
        host=host,
        network=network,
        discovery=_discovery(settings, host, state_dir, membership, log),
        rng=rng,
        log=log,
        membership=membership,
        environ=environ,
    )
    try:
        return await _serve(kind(context), StatusFile(state_dir / "status" / f"{prefix}.json"), stop)
    finally:
        network.close()


def _raise_descriptor_limit(log: structlog.typing.FilteringBoundLogger) -> None:
    limit = descriptors.raise_limit()
    if limit < descriptors.FEW:
        log.warning(
            "worker.few_descriptors",
            limit=limit,
            advice="it refuses callers and racks for whom there is none: `ulimit -n 65536` before the start",
        )


def _affordable(settings: Settings, log: structlog.typing.FilteringBoundLogger) -> Settings:
    spare = memory.spare()
    less = memory.within(settings, spare)
    if less != settings:
        log.warning(
            "worker.little_memory",
            spare=spare,
            process_bytes=less.rpc.process_bytes,
            advice="rpc.processBytes was lowered to what `ulimit -v` leaves room for; more is refused",
        )
    return less


def _sum_up(loop: asyncio.AbstractEventLoop, calm: logging.Calm) -> None:
    """Tell of events that were not logged, as long as the loop runs."""
    calm.sum_up()
    loop.call_later(logging.A_WHILE, _sum_up, loop, calm)


async def _in_a_mesh(
    kind: type[Worker],
    files: MeshFiles,
    stop: _StopOnSignals,
    log: structlog.typing.FilteringBoundLogger,
) -> bool:
    """Wait until this machine is in a mesh; False when the stop came first. An orchestrator makes one."""
    if kind.role == ORCHESTRATOR:
        files.create(socket.gethostname(), clock.wall())
    told = False
    while not files.exists():
        if not told:
            told = True
            log.warning(
                "worker.no_mesh",
                mesh=files.name,
                advice="start an orchestrator here, which makes a mesh; or, to join one that is there: "
                "`wrk invite --role rack` on its first machine, then `wrk join STRING` here. Waiting",
            )
        try:
            async with asyncio.timeout(NO_MESH_LOOK_SECONDS):
                await stop.asked.wait()
        except TimeoutError:
            continue
        return False
    return True


def _membership(
    kind: type[Worker],
    settings: Settings,
    identity: Identity,
    state_dir: Path,
    prefix: str,
    log: structlog.typing.FilteringBoundLogger,
) -> Membership:
    """Raises `StartError`."""
    files = MeshFiles(state_dir, settings.discovery.mesh)
    path = state_dir / f"{prefix}.key"
    keys = load_or_make(path)
    if files.load().revocations.bars(keys.public):
        path.unlink()  # it was revoked, perhaps as stolen; the machine itself may certify a new one
        keys = load_or_make(path)
        log.warning("membership.new_key", advice="the old one was revoked")
    membership = Membership(files, keys, identity.worker_id, {kind.role}, wall=clock.wall, log=log)
    for peer in _static_peers(settings):
        if peer.key:
            membership.book.pin(peer.endpoint, peer.key)
    return membership


def _static_peers(settings: Settings) -> list[StaticPeer]:
    try:
        return [parse_peer(text) for text in settings.discovery.peers]
    except ValueError as error:
        raise StartError(f"discovery.peers: {error}") from None


def _ranges(settings: Settings) -> tuple[Network, ...]:
    try:
        return parse_ranges(settings.discovery.ranges)
    except ValueError as error:
        raise StartError(f"discovery.ranges: {error}") from None


async def _serve(worker: Worker, status: StatusFile, stop: _StopOnSignals) -> int:
    stop.hurry = worker.hurry
    starting = asyncio.ensure_future(worker.start())
    signalled = asyncio.ensure_future(stop.asked.wait())
    try:
        await asyncio.wait((starting, signalled), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            status.write(worker.status())
            await signalled
        else:
            starting.cancel()  # a model may take minutes to load: who asks for the end does not wait for it
            await asyncio.wait((starting,))
    finally:
        signalled.cancel()
        await worker.stop()
        status.remove()
    return 0


class _StopOnSignals:
    """The first signal asks for the stop, a second one ends the drain."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry: Callable[[], None] = lambda: None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self.asked.is_set():
            self.hurry()
        self.asked.set()


def _discovery(
    settings: Settings,
    host: str,
    state_dir: Path,
    membership: Membership,
    log: structlog.typing.FilteringBoundLogger,
) -> Discoveries:
    chosen = settings.discovery
    sources: list[Discovery] = [LocalDiscovery(state_dir, chosen.mesh)]
    if chosen.peers:
        sources.append(StaticDiscovery(_static_peers(settings)))
    if chosen.mdns:
        seal, mesh_id = membership.seal(), membership.mesh_id
        mdns = MdnsDiscovery(chosen.mesh, host, log, seal=seal, mesh_id=mesh_id, ranges=_ranges(settings))
        sources.append(mdns)
    return combine(*sources, log=log, learn=membership.book.learn)


def _run_to_the_end(life: Coroutine[Any, Any, int]) -> int:
    """Run the event loop; threads that handlers left behind do not hold up its end for ever."""
    fuse: list[threading.Timer] = []
    try:
        return uvloop.run(_then_light(life, fuse))
    finally:
        for timer in fuse:
            timer.cancel()


async def _then_light(life: Coroutine[Any, Any, int], fuse: list[threading.Timer]) -> int:
    code = await life
    # The loop now waits for every thread of its pool. All is closed and answered, so one that computes
    # on for nobody is left where it is: Python has no way to stop a thread.
    timer = threading.Timer(THREADS_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()
    fuse.append(timer)
    return code


def be_quick() -> None:
    """Set this process up for many short-lived objects and large bodies."""
    _keep_freed_memory()
    _spare_the_collector()


def _spare_the_collector() -> None:
    """What was imported stays for ever, and what a request makes is freed by reference counting: the
    collector need not walk the one at all, nor look for cycles in the other after every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _keep_freed_memory() -> None:
    """Let glibc keep what large bodies leave behind, up to 64 MiB, instead of giving it back each time.

    Every page that is fetched again costs a fault: with bodies of 1 MiB they took half of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not on macOS, not with musl
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024)  # glibc takes no more
        mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024)
