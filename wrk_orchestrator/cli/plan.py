"""What `wrk up` starts and with which settings: a command line turned into programs. Starts nothing.

Whose a setting is follows from its name: `port` and `rpc.port` are the orchestrator's alone (racks take
ports from the kernel), every other setting of `wrk_base.config` is everybody's, `embeddings.*` belongs
to the embeddings rack, `openai.*` to the racks before model servers, and whatever remains to the
simulated racks, who know best what to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wrk_base.boot import Arguments, UsageError, parse
from wrk_base.config import Settings
from wrk_base.discovery.addresses import LOOPBACK
from wrk_base.model_servers.addresses import address_of, candidates
from wrk_base.settings_keys import canonical, keys_of
from wrk_base.settings_loader import load
from wrk_base.state import default_state_dir

from .kinds import ORCHESTRATOR, rack_kinds, rack_type

DRAIN_MS = 3000  # within the five seconds after which everything is gone
SIM_RACKS = ("r1", "r2")
EMBEDDINGS = "embeddings"
OPENAI = "openai"
UPSTREAM, KEY = "openai.upstream", "openai.apiKeyEnv"
ORCHESTRATORS_OWN = {("PORT",), ("RPC", "PORT")}
FOR_ONE_SERVER = {tuple(canonical(part) for part in name.split(".")) for name in (UPSTREAM, KEY)}
SETTINGS = {tuple(canonical(part) for part in key.path) for key in keys_of(Settings)}

Flag = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Program:
    """One process to run. `flags` go to its command line."""

    name: str
    wtype: str
    rack: str
    flags: tuple[Flag, ...]

    @property
    def prefix(self) -> str:
        return f"{self.wtype}-{self.rack}"

    @property
    def is_orchestrator(self) -> bool:
        return self.wtype == ORCHESTRATOR

    @property
    def arguments(self) -> list[str]:
        return [
            f"--wtype={self.wtype}",
            f"--rack={self.rack}",
            *(f"--{name}={value}" for name, value in self.flags),
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """`state_dir` is None where a temporary one will do. `settings` are those that all programs share.

    `addresses` are asked for model servers; `sims_asked_for` where a setting is for simulated racks alone.
    """

    orchestrator: Program
    sims: tuple[Program, ...]
    sims_asked_for: bool
    embeddings: Program | None
    openai: Program
    addresses: tuple[str, ...]
    state_dir: Path | None
    settings: Settings

    def before(self, url: str, name: str) -> Program:
        """The rack before a model server, which may be anybody's: no key is for it, whatever is set."""
        flags = (*self.openai.flags, (KEY, ""), (UPSTREAM, url))
        return replace(self.openai, name=f"rack {name}", rack=name, flags=flags)


def make_plan(
    words: Sequence[str],
    environ: Mapping[str, str],
    *,
    mesh: str,
    lan: bool = False,
    extras: Sequence[str] = (),
    search: bool = True,
) -> Plan:
    """The plan for a command line of settings; it stays on this machine unless `lan` or they say otherwise.

    `mesh` is a fresh one for a check: then ports are chosen by the kernel and the state is temporary,
    unless `words` say otherwise, and no model server is looked for, so that it ends alike everywhere.
    Raises `UsageError`, `SettingsError`.
    """
    told = _read(words, environ)
    own: list[Flag] = [("port", "0"), ("rpc.port", "0"), ("discovery.mesh", mesh)] if mesh else []
    reach: list[Flag] = [] if lan else [("interface", LOOPBACK)]
    flags = _Flags([("stop.drainTimeout", str(DRAIN_MS)), *reach, *own, *told.flags])
    everybody = (*_paths(told), *flags.everybody)
    rack = (*everybody, ("rpc.port", "0"))
    settings = _shared_settings(told, environ, [*flags.everybody, *flags.orchestrator])
    return Plan(
        orchestrator=Program("the orchestrator", ORCHESTRATOR, "main", (*everybody, *flags.orchestrator)),
        sims=tuple(
            Program(f"rack {name}", rack_type("sim"), name, (*rack, *flags.sims)) for name in SIM_RACKS
        ),
        sims_asked_for=bool(flags.sims),
        embeddings=_embeddings(extras, rack, flags.embeddings),
        openai=Program("", rack_type(OPENAI), "", (*rack, *flags.openai)),
        addresses=_addresses(settings, environ) if search and not mesh else (),
        state_dir=told.state_dir or (None if mesh else default_state_dir(environ)),
        settings=settings,
    )


def _read(words: Sequence[str], environ: Mapping[str, str]) -> Arguments:
    told = parse(words, {name: value for name, value in environ.items() if name != "WRK_STATE_DIR"})
    if told.wtype or told.show_config or any(word.partition("=")[0] == "--rack" for word in words):
        raise UsageError("`up` decides itself what it starts: leave out --wtype, --rack and --show-config")
    told.flags = [("discovery.mesh" if name == "mesh" else name, value) for name, value in told.flags]
    return told


def _embeddings(extras: Sequence[str], common: Sequence[Flag], own: Sequence[Flag]) -> Program | None:
    unknown = sorted(set(extras) - {EMBEDDINGS})
    if unknown:
        raise UsageError(f"--with {unknown[0]}: there is {EMBEDDINGS}")
    if own and not extras:
        raise UsageError(f"--{own[0][0]}: that needs --with {EMBEDDINGS}")
    if not extras:
        return None
    return Program("the embeddings rack", rack_type(EMBEDDINGS), EMBEDDINGS, (*common, *own))


def _addresses(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where model servers may be; the orchestrator's own port is its own."""
    found = candidates(settings.model_servers.addresses, environ.get("OLLAMA_HOST", ""))
    return tuple(url for url in found if url != address_of(settings.port))


def _shared_settings(told: Arguments, environ: Mapping[str, str], flags: Sequence[Flag]) -> Settings:
    """Read here as well, so that a mistake in them is one line and not one of every program."""
    return load(
        config_dir=told.config, env=told.env, environ=environ, flags=flags, known_sections=rack_kinds()
    ).settings


def _paths(told: Arguments) -> list[Flag]:
    config = [("config", str(told.config))] if told.config else []
    return [("env", told.env), *config]


class _Flags:
    """Settings by whose they are; later ones win, as on any command line."""

    def __init__(self, flags: Sequence[Flag]) -> None:
        self.orchestrator: list[Flag] = []
        self.everybody: list[Flag] = []
        self.embeddings: list[Flag] = []
        self.openai: list[Flag] = []
        self.sims: list[Flag] = []
        for name, value in flags:
            self._owner(tuple(canonical(part) for part in name.split("."))).append((name, value))

    def _owner(self, path: tuple[str, ...]) -> list[Flag]:
        if path in ORCHESTRATORS_OWN:
            return self.orchestrator
        if path in SETTINGS:
            return self.everybody
        if path in FOR_ONE_SERVER:
            raise UsageError(
                "`up` looks for servers itself, where --modelServers.addresses says, and shows none a key; "
                "for one server, start `wrk rack openai --upstream URL --api-key-env NAME` besides"
            )
        return {EMBEDDINGS.upper(): self.embeddings, OPENAI.upper(): self.openai}.get(path[0], self.sims)
