"""How much of their prompts eight racks still remember when seven of ten prompts begin like others.

Simulated racks keep the beginnings of prompts as model servers do, and tell with each answer how much of the
prompt was known. A rack has room for half of what is shared, so that it matters who gets what. The
same questions, in the same order, go to one mesh for each strategy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from random import Random

import msgspec
import uvloop

from benchmarks.gateway_side import answers, raw_http
from benchmarks.gateway_side.figures import SharedPrefixes
from benchmarks.gateway_side.gateway import await_answer
from benchmarks.gateway_side.ours import start_orchestrator
from benchmarks.mesh import mesh
from benchmarks.side_by_side.processes import CellError

RACKS = 8
SLOTS = 4
CALLERS = 16
MODEL = "sim-model"
SHARED_SHARE = 0.7
BEGINNINGS = 64
BEGINNING, QUESTION = 1024, 128  # characters
BLOCK = 64  # characters that a rack remembers as one
REMEMBERED = BEGINNINGS * BEGINNING // BLOCK // 2  # blocks
FIRST_SHARE = 0.2  # of the requests come before anything is counted: all caches begin empty
LIMIT_SECONDS = 60.0
SEED = 7


class _Details(msgspec.Struct):
    cached_tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage


def measure(requests: int) -> SharedPrefixes:
    """Raises `CellError`, also where racks do not tell what they knew."""
    in_turn, _ = _under("round-robin", requests)
    if not in_turn:
        raise CellError("no rack knew anything under round-robin")
    aware, most = _under("prefix-aware", requests)
    return SharedPrefixes(in_turn, aware, most)


def _under(strategy: str, requests: int) -> tuple[float, float]:
    """(share of prompt tokens that were known, the busiest rack's requests over the mean)."""
    with mesh() as made:
        port = start_orchestrator(made, "--loadBalancingStrategy", strategy)
        for number in range(RACKS):
            offer = ("--models", MODEL, "--capacity", str(SLOTS), "--prefixCache", str(REMEMBERED))
            made.start("wrk-rack-sim", f"r{number}", *offer)
        await_answer(port, made.alive, answers.request(model=MODEL), answers.status_fault)
        asked = list(questions(requests, Random(SEED)))
        responses = uvloop.run(_ask_all(port, asked))[int(requests * FIRST_SHARE) :]
    return known_share(responses), busiest(responses)


def questions(requests: int, rng: Random) -> Iterator[bytes]:
    """Chat requests: `SHARED_SHARE` of them begin with one of `BEGINNINGS` texts, the others like none."""
    beginnings = [_text(BEGINNING, rng) for _ in range(BEGINNINGS)]
    for _ in range(requests):
        shared = rng.random() < SHARED_SHARE
        system = rng.choice(beginnings) if shared else _text(BEGINNING, rng)
        yield answers.request(model=MODEL, system=system, user=_text(QUESTION, rng))


def _text(size: int, rng: Random) -> str:
    """Words of seven letters, with the space or the line's end behind each."""
    return " ".join(f"{rng.getrandbits(28):07x}" for _ in range(size // 8))


def known_share(responses: list[raw_http.Response]) -> float:
    """Of the tokens of all prompts; raises `CellError`."""
    asked = known = 0
    for response in responses:
        try:
            usage = msgspec.json.decode(response.body, type=_Answer).usage
        except msgspec.DecodeError:
            raise CellError(answers.status_fault(response.status, response.body) or "no usage") from None
        if usage.prompt_tokens_details is None:
            raise CellError("the simulated racks do not tell what they remembered")
        asked += usage.prompt_tokens
        known += usage.prompt_tokens_details.cached_tokens
    return known / asked


def busiest(responses: list[raw_http.Response]) -> float:
    """The requests of the rack that had the most, as a multiple of the mean."""
    workers = Counter(response.fields["x-wrk-worker"] for response in responses)
    return max(workers.values()) * RACKS / len(responses)


async def _ask_all(port: int, bodies: list[bytes]) -> list[raw_http.Response]:
    """In the order of their ends, with `CALLERS` of them under way."""
    responses: list[raw_http.Response] = []
    left = iter(bodies)

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for body in left:
                writer.write(raw_http.request(body))
                responses.append(await _response(reader))
        finally:
            writer.close()

    async with asyncio.timeout(LIMIT_SECONDS):
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return responses


async def _response(reader: asyncio.StreamReader) -> raw_http.Response:
    raw = b""
    while (response := raw_http.read(raw)) is None:
        data = await reader.read(65536)
        if not data:
            raise CellError("the gateway closed the connection")
        raw += data
    return response
