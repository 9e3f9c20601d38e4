"""Who may import whom, read from the source of every module.

Layers: racks and orchestrator build on wrk_base and meet on the wire only. Pure modules decide from
what they are given: no input or output, no clock, no chance of their own. Each foreign library lives
behind one module or folder, so that it can be faked there and replaced there. An import for type
checkers alone is not an import.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("wrk_base", "wrk_orchestrator", "racks")

MAY_IMPORT = {
    "wrk_base": {"wrk_base"},
    "wrk_orchestrator": {"wrk_orchestrator", "wrk_base"},
    "racks": {"racks", "wrk_base"},
}

PURE = (
    "wrk_base/callers.py",
    "wrk_base/contract.py",
    "wrk_base/errors.py",
    "wrk_base/failover.py",
    "wrk_base/results.py",
    "wrk_base/discovery/__init__.py",
    "wrk_base/discovery/advert.py",
    "wrk_base/discovery/gate.py",
    "wrk_base/discovery/hearsay.py",
    "wrk_base/discovery/reach.py",
    "wrk_base/discovery/table.py",
    "wrk_base/model_servers/addresses.py",
    "wrk_base/model_servers/recognition.py",
    "wrk_base/log_throttle.py",
    "wrk_base/rpc/body.py",
    "wrk_base/rpc/calls.py",
    "wrk_base/rpc/flow.py",
    "wrk_base/rpc/handlers.py",
    "wrk_base/rpc/identity.py",
    "wrk_base/rpc/lobby.py",
    "wrk_base/rpc/membership.py",
    "wrk_base/rpc/outbox.py",
    "wrk_base/rpc/pace.py",
    "wrk_base/rpc/stream.py",
    "wrk_base/rpc/wire.py",
    "wrk_base/security/certificate.py",
    "wrk_base/security/invitation.py",
    "wrk_base/security/keybook.py",
    "wrk_base/security/ledger.py",
    "wrk_base/security/revocations.py",
    "wrk_base/security/roles.py",
    "wrk_base/security/z85.py",
    "wrk_orchestrator/affinity.py",
    "wrk_orchestrator/explanation.py",
    "wrk_orchestrator/account.py",
    "wrk_orchestrator/http/api_keys.py",
    "wrk_orchestrator/chaos/book.py",
    "wrk_orchestrator/chaos/checker.py",
    "wrk_orchestrator/chaos/figures.py",
    "wrk_orchestrator/chaos/history.py",
    "wrk_orchestrator/chaos/report.py",
    "wrk_orchestrator/chaos/validity.py",
    "wrk_orchestrator/http/errors.py",
    "wrk_orchestrator/http/openai_errors.py",
    "wrk_orchestrator/http/whole_as_stream.py",
    "wrk_orchestrator/fact_index.py",
    "wrk_orchestrator/candidate.py",
    "wrk_orchestrator/fair_queue.py",
    "wrk_orchestrator/cli/latency.py",
    "wrk_orchestrator/cli/likeness.py",
    "wrk_orchestrator/cli/lookout.py",
    "wrk_orchestrator/health_*.py",
    "wrk_orchestrator/hedging.py",
    "wrk_orchestrator/http/needs.py",
    "wrk_orchestrator/kept_items.py",
    "wrk_orchestrator/load_balancer.py",
    "wrk_orchestrator/load_book.py",
    "wrk_orchestrator/model_names.py",
    "wrk_orchestrator/model_queue.py",
    "wrk_orchestrator/pools.py",
    "wrk_orchestrator/quarantine_share.py",
    "wrk_orchestrator/records.py",
    "wrk_orchestrator/refusals.py",
    "wrk_orchestrator/prospect.py",
    "wrk_orchestrator/replication.py",
    "wrk_orchestrator/retry_budget.py",
    "wrk_orchestrator/service_registry.py",
    "wrk_orchestrator/shared_kinds.py",
    "wrk_orchestrator/state_log.py",
    "wrk_orchestrator/strategies/*.py",
    "racks/http_reader.py",
    "racks/openai_body.py",
    "racks/openai_models.py",
    "racks/openai_stream.py",
    "racks/origin.py",
    "racks/openai_replies.py",
    "racks/openai_response.py",
    "racks/openai_texts.py",
    "racks/prefix_cache.py",
    "racks/sim_openai.py",
    "racks/sim_request.py",
    "wrk_orchestrator/wait_estimate.py",
    "racks/sim_script.py",
    "racks/sse.py",
    "racks/sim_vectors.py",
    "racks/scheduler.py",
    "racks/text_requests.py",
    "racks/token_text.py",
    "racks/sim_shelf.py",
    "racks/upstream_choice.py",
)
NOT_IN_PURE = {
    *("asyncio", "threading", "multiprocessing", "subprocess", "socket", "zmq", "zeroconf"),
    *("time", "datetime", "random", "secrets", "uuid", "os", "io", "pathlib", "sqlite3", "structlog"),
}

HOMES = {
    "zmq": ("wrk_base/rpc/zmq_link.py", "wrk_base/security/*.py"),
    "cryptography": ("wrk_base/security/*.py",),
    "zeroconf": ("wrk_base/discovery/mdns.py",),
    "ifaddr": ("wrk_base/discovery/*.py",),
    "sqlite3": ("wrk_base/store.py",),
    "litestar": ("wrk_orchestrator/http/*.py",),
    "uvicorn": ("wrk_orchestrator/http/*.py",),
    "typer": ("wrk_orchestrator/cli/*.py",),
    "rich": ("wrk_orchestrator/cli/*.py",),
    "httpx": ("wrk_orchestrator/cli/*.py",),
    "httptools": ("racks/http_reader.py", "wrk_base/model_servers/get.py"),
    "sentence_transformers": ("racks/embeddings.py",),
    "torch": ("racks/embeddings.py", "racks/causal_model.py", "racks/lanes.py"),
    "transformers": ("racks/embeddings.py", "racks/causal_model.py", "racks/lanes.py"),
    "time": ("wrk_base/clock.py",),
}
"""Library -> the only modules that import it."""

SEES_THE_ENVIRONMENT = ("wrk_base/boot.py", "wrk_base/client.py", "wrk_orchestrator/cli/*.py")
SEEDS_CHANCE = (
    "wrk_base/boot.py",
    "wrk_base/client.py",
    "wrk_base/rpc/zmq_link.py",
    "wrk_base/security/mesh_files.py",
    "wrk_orchestrator/cli/*.py",
)


@dataclass(frozen=True)
class Module:
    path: str  # from the root, with slashes
    name: str  # dotted
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name if self.path.endswith("/__init__.py") else self.name.rpartition(".")[0]

    def is_one_of(self, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch(self.path, pattern) for pattern in patterns)

    def imports(self) -> Iterator[str]:
        """Dotted names of what is imported when the code runs, wherever in the file that stands."""
        for node in walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{self._origin(node)}.{alias.name}" for alias in node.names)

    def _origin(self, node: ast.ImportFrom) -> str:
        above = self.package.split(".")[: self.package.count(".") + 2 - node.level] if node.level else []
        return ".".join([*above, *([node.module] if node.module else [])])


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from walk(node)


@cache
def modules() -> tuple[Module, ...]:
    paths = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(read(path) for path in sorted(paths))


def read(path: Path) -> Module:
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    return Module(path.as_posix(), name, ast.parse((ROOT / path).read_text(), str(path)))


def top(name: str) -> str:
    return name.partition(".")[0]


def ours(name: str) -> Module | None:
    """The module of ours that an imported name stands for or stands in."""
    by_name = {module.name: module for module in modules()}
    return by_name.get(name) or by_name.get(name.rpartition(".")[0])


def test_layers_are_imported_downwards_only() -> None:
    ours_and_tests = {*PACKAGES, "benchmarks", "tests"}
    upwards = [
        f"{module.path} imports {name}"
        for module in modules()
        for name in module.imports()
        if top(name) in ours_and_tests - MAY_IMPORT[top(module.name)]
    ]
    assert upwards == []


@pytest.mark.parametrize("pattern", PURE)
def test_pure_modules_have_no_world(pattern: str) -> None:
    chosen = [module for module in modules() if fnmatch(module.path, pattern)]
    assert chosen, "a rule for a module that is not there"
    worldly = [
        f"{module.path} imports {name}"
        for module in chosen
        for name in module.imports()
        if top(name) in NOT_IN_PURE
    ]
    assert worldly == []


def test_pure_modules_build_on_pure_modules() -> None:
    impure = [
        f"{module.path} imports {found.path}"
        for module in modules()
        if module.is_one_of(PURE)
        for name in module.imports()
        if (found := ours(name)) and not found.is_one_of(PURE) and not is_docstring(found)
    ]
    assert impure == []


def is_docstring(module: Module) -> bool:
    return all(isinstance(node, ast.Expr) for node in module.tree.body)


@pytest.mark.parametrize("library", HOMES)
def test_a_library_stays_at_home(library: str) -> None:
    homes = HOMES[library]
    assert any(module.is_one_of(homes) for module in modules()), "a rule for a module that is not there"
    users = [module for module in modules() if library in {top(name) for name in module.imports()}]
    assert [module.path for module in users if not module.is_one_of(homes)] == []


def test_the_environment_is_read_at_the_entrance_only() -> None:
    readers = [
        module.path
        for module in modules()
        if not module.is_one_of(SEES_THE_ENVIRONMENT)
        for node in walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
    assert readers == []
    assert [m.path for m in modules() if {"os.environ", "os.getenv"} & set(m.imports())] == []


def test_no_clock_is_read_by_way_of_a_date() -> None:
    asked = [
        f"{module.path}:{node.lineno}"
        for module in modules()
        for node in walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"now", "utcnow", "today"} and "date" in ast.unparse(node.func.value)
    ]
    assert asked == []


def test_chance_comes_from_a_generator_that_was_given() -> None:
    """Elsewhere only the class is imported, for a signature or to be made from a given seed."""
    wild = [
        f"{module.path} imports {name}"
        for module in modules()
        if not module.is_one_of(SEEDS_CHANCE)
        for name in module.imports()
        if top(name) in {"random", "secrets", "uuid"} and name != "random.Random"
    ]
    unseeded = [
        f"{module.path}:{node.lineno} makes a generator without a seed"
        for module in modules()
        if not module.is_one_of(SEEDS_CHANCE)
        for node in walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node) in {"Random()", "random.Random()"}
    ]
    assert wild + unseeded == []


ALONE = """
import importlib, os, sys

# Libraries first, once: what is looked at is how our own modules hang together.
for name in sys.argv[1].split(","):
    importlib.import_module(name)

for name in sys.argv[2].split(","):
    child = os.fork()
    if not child:
        status = 1
        try:
            importlib.import_module(name)
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        print(f"^ import {name}", file=sys.stderr, flush=True)
"""
LIBRARIES = ("asyncio", "httpx", "litestar", "msgspec", "rich", "structlog", "typer", "uvicorn", "zmq")


def test_every_module_can_be_imported_first() -> None:
    names = ",".join(module.name for module in modules())
    command = [sys.executable, "-c", ALONE, ",".join(LIBRARIES), names]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.stderr == ""
    assert ran.returncode == 0
