"""What can be started here, by name. Read from the installed entry points without importing any of them."""

from __future__ import annotations

GROUP = "wrk.workers"
RACK = "wrk-rack-"
ORCHESTRATOR = "wrk-orchestrator-http"


def rack_kinds() -> list[str]:
    """`sim` for the worker type `wrk-rack-sim`; each is also the name of its settings section."""
    from importlib.metadata import entry_points  # a third of the start of a command that needs it not

    names = {entry.name for entry in entry_points(group=GROUP)}
    return sorted(name.removeprefix(RACK) for name in names if name.startswith(RACK))


def rack_type(kind: str) -> str:
    """The worker type of a kind; `package.module:Class` stands for itself."""
    return kind if ":" in kind else RACK + kind
