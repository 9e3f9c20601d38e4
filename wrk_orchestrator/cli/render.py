"""Answers of the mesh as tables and lines for people.

Everything shown comes from other processes, some of it from strangers, so it is put into cells as plain
text: no markup is read in it and no control character reaches the terminal. Knows no RPC.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from .kinds import RACK
from .plain import json_text, printable

PIPED_WIDTH = 200  # a pipe has no edge to fold at; rich would take 80
SHORT = 30  # characters of an id or address that is kept in one piece, however narrow the terminal
KIBI = 1024  # tokens of a context are counted so by who makes models
BAR = 40  # characters of the longest bar of a histogram
ALWAYS_TOLD = {"requests": "requests", "errors": "errors", "averageProcessingTime": "ms on average"}
KNOWN = {*ALWAYS_TOLD, "processingTime", "lastError"}  # the other figures of a method are told if they count
WELL = "healthy"
LET_IN = " (gets a call at a time all the same: too few others are in service)"


def console() -> Console:
    """Where tables go: standard output, as wide as the terminal or wide enough."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def show(*parts: RenderableType) -> None:
    console().print(*parts, sep="\n")


def cell(value: object, style: str = "") -> Text:
    """A value of somebody else's as plain text."""
    return Text(printable(str(value)), style=style)


def table(*columns: str, numbers: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """An empty table; columns in `numbers` are aligned to the right, those in `whole` are never folded."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in columns:
        justify: Literal["right", "left"] = "right" if name in numbers else "left"
        made.add_column(name, justify=justify, overflow="fold", no_wrap=name in whole)
    return made


def workers_parts(workers: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The answer of `listWorkers`: a line for each, then why some are not well."""
    if not workers:
        return [Text("no worker is registered; `wrk rack sim --rack r1` starts one")]
    keys = {"worker": "workerId", "address": "address"}
    short = [name for name, key in keys.items() if all(len(str(w[key])) <= SHORT for w in workers)]
    made = table(
        *("worker", "name", "models", "state", "address", "found by", "load"), numbers=("load",), whole=short
    )
    reasons = []
    for worker in sorted(workers, key=lambda worker: str(worker["workerId"])):
        made.add_row(*_worker_cells(worker))
        if worker["cause"]:
            why = f"{worker['workerId']} is {worker['state']}: {worker['cause']}"
            reasons.append(cell(why + LET_IN if worker.get("letIn") else why, "red"))
    return [made, *reasons]


def _worker_cells(worker: Mapping[str, Any]) -> Iterator[Text]:
    offer, word = worker["capabilities"], str(worker["state"])
    yield cell(worker["workerId"], "bold")
    yield cell(" ".join(part for part in (worker["name"], worker["type"].removeprefix(RACK)) if part))
    cold = f"{', '.join(offer['cold'])} (cold)" if offer.get("cold") else ""
    yield cell("; ".join(filter(None, (_models(offer["models"], offer.get("facts", {})), cold))))
    yield cell(word, "green" if word == WELL else "red")
    yield cell(worker["address"])
    yield cell(worker["foundBy"])
    yield cell(f"{worker['currentLoad']} of {offer['capacity']['maxConcurrent']}")


def _models(models: Iterable[str], facts: Mapping[str, Any]) -> str:
    """Models, with those together of which the same is told: `m1, m2 (tools, 32k); m3`."""
    alike: dict[str, list[str]] = {}
    for model in models:
        alike.setdefault(_told(facts.get(model, {})), []).append(model)
    return "; ".join(", ".join(names) + told for told, names in alike.items())


def _told(facts: Mapping[str, Any]) -> str:
    """What a worker tells of one model, in short: ` (vision, 32k)`."""
    words = sorted(facts.get("capabilities", ()))
    context = facts.get("contextLength", 0)
    if context:
        words.append(str(context) if context % KIBI else f"{context // KIBI}k")
    return f" ({', '.join(words)})" if words else ""


def status_parts(status: Mapping[str, Any]) -> list[RenderableType]:
    """The answer of `getServiceStatus`: facts, then what each worker did."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(status):
        facts.add_row(Text(name, style="dim"), cell(value))
    balanced = status["loadBalancer"]["workers"]
    return [facts, Text(), balance_table(balanced)] if balanced else [facts]


def _facts(status: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    registry, health, clients = status["registry"], status["health"], status["rpcClients"]
    balancer = status["loadBalancer"]
    yield "orchestrator", f"{status['workerId']}, {status['status']}, mesh {status['mesh']}"
    yield "address", status["endpoint"]
    yield "workers", f"{registry['workers']} registered, {health['healthy']} healthy{_not_well(health)}"
    yield "models", ", ".join(f"{name} ({n or 'cold'})" for name, n in registry["models"].items()) or "none"
    aliases = registry.get("aliases", {})
    if aliases:
        yield "aliases", ", ".join(f"{alias} = {model}" for alias, model in aliases.items())
    yield "balancing", f"{balancer['strategy']}, {balancer['waiting']} waiting"
    for queue in balancer.get("queues", ()):
        seconds = queue["estimateMs"] / 1000
        yield "queue", f"{queue['model']}: {queue['waiting']} waiting, about {seconds:.3g} s"
    if health.get("panic"):
        yield "panic", f"{', '.join(health['panic'])}: too few workers, so those in quarantine are let in"
    for model, worker_id in balancer.get("loading", {}).items():
        yield "loading", f"{model} at {worker_id}"
    yield "requests", _counts(status["routing"])
    yield "links", f"{clients['ready']} of {clients['active']} ready"
    yield "discovery", _counts(status["discovery"])
    for other in status.get("otherMeshes", ()):
        yield "also here", f"mesh {other['name']} ({other['id']}): wrk invite there, wrk join here"


def _not_well(health: Mapping[str, Any]) -> str:
    others = {word: n for word, n in health["states"].items() if n and word != WELL}
    return "".join(f", {n} {word}" for word, n in others.items())


def _counts(counters: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counters.items())


def balance_table(workers: Mapping[str, Mapping[str, Any]]) -> Table:
    """The figures of the load balancer, per worker."""
    columns = ("requests", "failed", "mean ms", "load now")
    made = table("worker", *columns, numbers=columns)
    for worker_id, figures in sorted(workers.items()):
        made.add_row(
            cell(worker_id, "bold"),
            cell(figures["requestCount"]),
            cell(figures["failureCount"]),
            cell(f"{figures['averageProcessingTime']:.1f}"),
            cell(figures["currentLoad"]),
        )
    return made


def answer_text(result: Any) -> str:
    """An inference result: its text if it has one, else JSON. A pipe gets the text as it came."""
    match result:
        case {"text": str(said)}:
            result = said
        case {"choices": [{"message": {"content": str(said)}}, *_] | [{"text": str(said)}, *_]}:
            result = said
        case {"output": [*_, {"content": [{"text": str(said)}, *_]}]}:
            result = said
    text = result if isinstance(result, str) else json_text(result)
    return printable(text, keep="\n\t") if sys.stdout.isatty() else text


def answered_by(answer: Mapping[str, Any], ms: float) -> str:
    """Who answered, and how fast."""
    result, attempts = answer["result"], answer["attempts"]
    by = "simulated by" if isinstance(result, dict) and result.get("simulated") else "by"
    again = f", attempt {attempts}" if attempts > 1 else ""
    model = f", model {answer['modelId']}" if "modelId" in answer else ""
    key = f", {answer['idempotency']}" if "idempotency" in answer else ""
    return printable(f"{by} {answer['workerId']} in {ms:.0f} ms{again}{model}{key}")


def explained_parts(told: Mapping[str, Any]) -> list[RenderableType]:
    """Among whom a worker was chosen, each time, and where the request went."""
    parts: list[RenderableType] = [
        Text(f"{told['strategy']}; {told['queuedMs']:.1f} ms in the queue", style="bold")
    ]
    for look in told["looks"]:
        made = table(
            f"for {printable(look['model'])}", "score", "load", "limit", "", numbers=("load", "limit")
        )
        for seen in look["candidates"]:
            values = (seen["workerId"], seen["score"], seen["load"], seen["limit"], seen["excluded"])
            made.add_row(*(cell("" if value is None else value) for value in values))
        parts.append(made)
    for hop in told["hops"]:
        took = "" if hop["tookMs"] is None else f" after {hop['tookMs']:.1f} ms"
        parts.append(cell(f"{hop['atMs']:.1f} ms: to {hop['workerId']}, {hop['outcome']}{took}"))
    return parts


def routed_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Which worker answered, how it was found, by which way and how fast."""
    made = table("worker", "model", "found by", "via", "ms", numbers=("ms",))
    for row in rows:
        ms = f"{row['ms']:.1f}"
        made.add_row(*(cell(row[key]) for key in ("workerId", "model", "foundBy", "via")), cell(ms))
    return made


def pairs_table(pairs: Iterable[tuple[str, str, float]]) -> Table:
    """Pairs of sentences by similarity, the closest marked; they come closest first."""
    made = table("similarity", "one", "other", "", numbers=("similarity",))
    for position, (one, other, likeness) in enumerate(pairs):
        style, mark = ("bold green", "<- closest") if position == 0 else ("", "")
        made.add_row(*(cell(part, style) for part in (f"{likeness:.3f}", one, other, mark)))
    return made


def model_line(worker: Mapping[str, Any]) -> Text:
    """What answered the sentences."""
    offer, dimensions = worker["capabilities"], worker["labels"].get("dimensions", "?")
    model = ", ".join(offer["models"])
    return cell(
        f"{model} on {worker['workerId']}, found by {worker['foundBy']}: {dimensions} numbers a vector"
    )


def ping_parts(pings: Mapping[str, Any]) -> list[RenderableType]:
    """Round trips: to whom, a histogram, and the percentiles."""
    who = f"{pings['workerId']} at {pings['endpoint']}, connected in {_ms(pings['connectMs'])} ms"
    made = table("from", "to ms", "round trips", "", numbers=("from", "to ms", "round trips"))
    longest = max(bar["count"] for bar in pings["histogram"])
    for bar in pings["histogram"]:
        length = -(-bar["count"] * BAR // longest)  # rounded up: one is never none
        made.add_row(_ms(bar["fromMs"]), _ms(bar["toMs"]), str(bar["count"]), "█" * length)
    figures = "  ".join(f"{name} {_ms(ms)}" for name, ms in pings["ms"].items())
    back = f"{pings['received']} of {pings['sent']} came back: {figures} ms"
    return [cell(who), Text(), made, Text(), cell(back)]


def cost_lines(method: str, cost: Mapping[str, Any]) -> Iterator[str]:
    """What one call cost its caller, and what the peer says of the method."""
    connect, round_trip = _ms(cost["connectMs"]), _ms(cost["roundTripMs"])
    size = f"{cost['bytesOut']} bytes out, {cost['bytesIn']} bytes in"
    yield f"connect {connect} ms, round trip {round_trip} ms, {size}"
    figures = cost["method"]
    if figures is None:
        yield printable(f"{cost['workerId']} tells no figures of {method}")
        return
    told = [f"{figures.get(name, 0)} {words}" for name, words in ALWAYS_TOLD.items()]
    told += [f"{value} {name}" for name, value in figures.items() if value and name not in KNOWN]
    told += [f"last error {figures['lastError']}"] if figures.get("lastError") else []
    yield printable(f"{method} at {cost['workerId']}: {', '.join(told)}")


def _ms(ms: float) -> str:
    """Three digits or more that say something."""
    return f"{ms:.3f}" if ms < 10 else f"{ms:.1f}"


def mesh_parts(told: Mapping[str, Any], machines: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The answer of `listMembers`, and the machines where they are known."""
    linked = table("process", "machine", "roles", "until", "address#key", whole=("address#key",))
    for member in told["members"]:
        address = f"{member['address']}#{member['publicKey']}" if member["address"] else "-"
        facts = (
            member["name"],
            member["machine"],
            ", ".join(member["roles"]),
            _day(member["until"]),
            address,
        )
        linked.add_row(*map(cell, facts))
    parts: list[RenderableType] = [Text(f"mesh {told['mesh']}"), linked]
    if machines:
        known = table("machine", "roles", "until")
        for machine in machines:
            known.add_row(*map(cell, (machine["name"], ", ".join(machine["roles"]), _day(machine["until"]))))
        parts += [Text(), Text("machines that may certify (90 days, renewed by themselves)"), known]
    return parts


def _day(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
