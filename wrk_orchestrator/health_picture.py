"""The table of worker health as people read it: a picture of its moves, and the table itself.

Both are in ARCHITECTURE.md and are held equal to what is drawn here by a test. They say what the table
says and nothing more: numbers (how long, how often) are not in it.
"""

from __future__ import annotations

from .health_table import REPORTED, TABLE, Action, Observation, Row, State

STAYS, NEVER = "\N{MIDDLE DOT}", ""
MARKS = {Action.PROBE_SOON: "p", Action.CLOSE_LINK: "c", Action.REDIAL: "r"}


def diagram() -> str:
    """The table's moves as a Mermaid state diagram; rows that stay in their state are left out."""
    labels: dict[tuple[State, State], list[str]] = {}
    for (state, observation), row in TABLE.items():
        if row.next is not state:
            labels.setdefault((state, row.next), []).append(observation.value)
    arrows = [f"    {old} --> {new}: {' / '.join(found)}" for (old, new), found in labels.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.JOINING}", *arrows]) + "\n"


def table() -> str:
    """State x observation -> state, in Markdown: a line for each observation, a column for each state."""
    head = ["seen", *(state.value for state in State)]
    lines = [head, ["---"] * len(head), *(_line(observation) for observation in Observation)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _line(observation: Observation) -> list[str]:
    name = observation.value if observation in REPORTED else f"*{observation.value}*"
    return [name, *(_cell(state, TABLE.get((state, observation))) for state in State)]


def _cell(state: State, row: Row | None) -> str:
    if row is None:
        return NEVER
    does = "".join(MARKS[action] for action in row.actions)
    return f"{STAYS if row.next is state else row.next.value}{f' ({does})' if does else ''}"
