"""Proof that a mesh works: real requests, by RPC and by HTTP, until every rack has answered.

A client like any other; it starts and stops nothing. What does not hold is a `StartError` that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import httpx

from wrk_base import clock
from wrk_base.errors import StartError

from .likeness import pairs
from .session import Session

POLL_SECONDS = 0.025
MEET_SECONDS = 8.0
REQUEST_SECONDS = 30.0
ROUNDS = 30  # of one request a rack: random strategies need some until each has had one
SENTENCES = (
    "A cat is asleep on the windowsill.",
    "A kitten naps by the window.",
    "Share prices fell sharply on Monday.",
    "Stir the flour into the melted butter.",
)
RELATED = set(SENTENCES[:2])
DIMENSIONS = {"all-minilm-l6-v2": 384}

Send = Callable[[], Awaitable[Any]]
Row = dict[str, Any]


class Trial:
    """Requests through one orchestrator; `rows` tells who answered which way, how fast."""

    def __init__(self, session: Session, rpc: str, http: str) -> None:
        self._session, self._rpc, self._http = session, rpc, http
        self.rows: list[Row] = []

    async def meet(self, wanted: Collection[str], *, by_mdns: bool = True) -> list[Row]:
        """The records of the workers `wanted`, once all are registered, healthy and heard by mDNS."""
        mdns = by_mdns and self._session.settings.discovery.mdns
        missing: list[str] = []
        try:
            async with asyncio.timeout(MEET_SECONDS):
                while True:
                    listed = {worker["workerId"]: worker for worker in await self._listed()}
                    missing = _missing(wanted, listed, mdns)
                    if not missing:
                        return [listed[worker_id] for worker_id in wanted]
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            advice = f"; is multicast possible on {self._session.settings.interface}?" if mdns else ""
            what = ", ".join(missing)
            raise StartError(f"not in the mesh after {MEET_SECONDS:g} s: {what}{advice}") from None

    async def _listed(self) -> list[Row]:
        answer = await self._session.call(self._rpc, "listWorkers", {}, REQUEST_SECONDS)
        workers: list[Row] = answer["workers"]
        return workers

    async def route(self, workers: Collection[Row]) -> None:
        """Until each of `workers` has answered by RPC, and each by HTTP."""
        model = next(iter(workers))["capabilities"]["models"][0]
        await self._until_all("rpc", lambda: self.infer(model, "hello"), workers, model)
        async with httpx.AsyncClient(trust_env=False, timeout=REQUEST_SECONDS) as client:
            await self._until_all("http", lambda: self._post(client, model, "hello"), workers, model)

    async def _until_all(self, via: str, send: Send, workers: Collection[Row], model: str) -> None:
        found_by = {worker["workerId"]: worker["foundBy"] for worker in workers}
        seen: dict[str, float] = {}
        for _ in range(ROUNDS):
            for worker_id, ms in await asyncio.gather(*(_timed(send) for _ in workers)):
                seen[worker_id] = ms
            if found_by.keys() <= seen.keys():
                break
        else:
            silent = ", ".join(found_by.keys() - seen.keys())
            raise StartError(f"after {ROUNDS * len(workers)} requests by {via}, none went to {silent}")
        self.rows += [
            {
                "workerId": worker_id,
                "model": model,
                "foundBy": found_by[worker_id],
                "via": via,
                "ms": seen[worker_id],
            }
            for worker_id in sorted(found_by)
        ]

    async def infer(self, model: str, text: str) -> Any:
        """One request by RPC."""
        body = {"modelId": model, "inputData": text}
        return await self._session.call(self._rpc, "routeInferenceRequest", body, REQUEST_SECONDS)

    async def _post(self, client: httpx.AsyncClient, model: str, text: str) -> Any:
        url = f"{self._http}/api/inference/route"
        try:
            answer = await client.post(url, json={"modelId": model, "inputData": text})
        except httpx.HTTPError as error:
            raise StartError(f"POST {url}: {error or type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK:
            raise StartError(f"POST {url}: status {answer.status_code}: {answer.text[:300]}")
        return answer.json()

    async def compare(self, worker: Row) -> list[tuple[str, str, float]]:
        """Four sentences as vectors: every pair of them, closest first, which must be the related ones."""
        model = worker["capabilities"]["models"][0]
        answers = await asyncio.gather(*(self.infer(model, text) for text in SENTENCES))
        vectors = [answer["result"]["embeddings"][0] for answer in answers]
        lengths = {len(vector) for vector in vectors}
        if lengths != {DIMENSIONS.get(model, len(vectors[0]))}:
            raise StartError(f"{model} answered with vectors of {sorted(lengths)} numbers")
        found = pairs(SENTENCES, vectors)
        if set(found[0][:2]) != RELATED:
            raise StartError(f"{model} finds {found[0][0]!r} and {found[0][1]!r} closest")
        return found


async def _timed(send: Send) -> tuple[str, float]:
    """Who answered, and after how many milliseconds."""
    asked = clock.monotonic()
    answer = await send()
    return str(answer["workerId"]), round((clock.monotonic() - asked) * 1000, 1)


def _missing(wanted: Collection[str], listed: Mapping[str, Row], mdns: bool) -> list[str]:
    return [
        f"{worker_id} ({_state(listed.get(worker_id))})"
        for worker_id in wanted
        if not _is_in(listed.get(worker_id), mdns)
    ]


def _is_in(worker: Row | None, mdns: bool) -> bool:
    return worker is not None and worker["state"] == "healthy" and (worker["foundBy"] == "mdns" or not mdns)


def _state(worker: Row | None) -> str:
    if worker is None:
        return "not registered"
    return " ".join(
        part for part in (worker["state"], worker["cause"], f"found by {worker['foundBy']}") if part
    )
