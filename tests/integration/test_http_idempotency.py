"""`Idempotency-Key` over HTTP, by both faces: what comes again is not run again, and a header says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.aio import eventually, run
from tests.fakes.http_house import ROUTE, House, StagedRack, house
from wrk_base import callers, contract, errors
from wrk_base.rack import SUCCESS
from wrk_base.rpc import wire
from wrk_base.rpc.request import Final, Packed, Request
from wrk_orchestrator.http import api_keys
from wrk_orchestrator.http.gate import ANYBODY, Caller

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m1","messages":[]}'
STREAM = b'{"model":"m1","stream":true,"messages":[]}'
SAID = "x-wrk-idempotency"


class ChatRack(StagedRack):
    """Numbers its answers; a stream has two chunks."""

    async def serve(self, request: Request, head: contract.InferenceHead) -> None:
        if head.options.task != "chat":
            await super().serve(request, head)
            return
        self.entered += 1
        if b'"refuse"' in request.payload:
            raise errors.BadRequest("the prompt is too long")
        if request.wants_stream:
            await request.produce(self._chunks(self.entered), {"success": True})
        else:
            request.answer(SUCCESS, wire.JSON, b'{"execution":%d}' % self.entered)

    async def _chunks(self, number: int) -> AsyncIterator[Any]:
        yield Packed(wire.JSON, b'{"execution":%d}' % number)
        await self.go_on.wait()
        yield Packed(wire.JSON, b'{"more":1}')
        yield Final(None)


async def ask(h: House, body: bytes = BODY, key: str = "k", path: str = CHAT) -> httpx.Response:
    return await h.http.post(path, content=body, headers={"idempotency-key": key})


def test_a_header_has_the_answer_of_the_first_given_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, ChatRack) as h:
            told = [await ask(h) for _ in range(3)]
            assert [answer.json() for answer in told] == 3 * [{"execution": 1}]
            assert [answer.headers[SAID] for answer in told] == ["ran", "stored", "stored"]
            other = await ask(h, key="another")
            assert (other.json(), other.headers[SAID]) == ({"execution": 2}, "ran")
            plain = await h.http.post(CHAT, content=BODY)
            assert SAID not in plain.headers

    run(story())


def test_errors_say_it_too_and_another_request_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, ChatRack) as h:
            bad = b'{"model":"m1","messages":["refuse"]}'
            for expected in ("ran", "stored"):
                answer = await ask(h, bad)
                assert (answer.status_code, answer.headers[SAID]) == (400, expected)
            conflict = await ask(h)
            assert (conflict.status_code, conflict.json()["error"]["code"]) == (422, "idempotency_key_reused")
            assert SAID not in conflict.headers
            for wrong in ("", 257 * "k"):
                refusal = await ask(h, key=wrong)
                assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "idempotency-key")
            assert h.rack.entered == 1

    run(story())


def test_a_stream_says_in_a_comment_at_its_end_how_it_came(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, ChatRack) as h:
            first = asyncio.create_task(ask(h, STREAM))
            await h.held()
            second = asyncio.create_task(ask(h, STREAM))
            await eventually(lambda: h.rack.server.in_flight == 2)
            h.rack.go_on.set()
            texts = [(await first).text, (await second).text, (await ask(h, STREAM)).text]
            events = 'data: {"execution":1}\n\ndata: {"more":1}\n\n'
            for text, how in zip(texts, ("ran", "attached", "stored"), strict=True):
                assert text == f"{events}: {SAID}: {how}\n\ndata: [DONE]\n\n"

    run(story())


def test_our_own_path_takes_the_header_or_the_option(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            body = b'{"modelId":"m1","inputData":"hello"}'
            first = await ask(h, body, path=ROUTE)
            again = await h.route("hello", options={"idempotencyKey": "k"})
            for answer, how in ((first, "ran"), (again, "stored")):
                assert (answer.status_code, answer.json()["idempotency"], answer.headers[SAID]) == (
                    200,
                    how,
                    how,
                )
            assert h.rack.entered == 1
            two = b'{"modelId":"m1","inputData":"hello","options":{"idempotencyKey":"other"}}'
            refusal = await ask(h, two, path=ROUTE)
            assert refusal.status_code == 400
            assert refusal.json()["error"]["field"] == "options.idempotencyKey"
            failed = [await h.route({"stage": "refuse"}, options={"idempotencyKey": "r"}) for _ in range(2)]
            assert [answer.headers[SAID] for answer in failed] == ["ran", "stored"]

    run(story())


def test_a_caller_who_left_finds_its_answer_when_it_comes_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            options = {"idempotencyKey": "k"}
            left = h.hold(options=options)
            await h.held()
            left.cancel()
            await eventually(lambda: h.rack.server.in_flight == 0)
            h.rack.go_on.set()
            again = await h.route({"stage": "wait"}, options=options)
            assert again.headers[SAID] in ("attached", "stored")
            assert (h.rack.entered, h.rack.cancelled) == (1, 0)

    run(story())


def test_holders_of_two_keys_are_two_callers_and_nobody_is_a_third() -> None:
    kept = [api_keys.entry(api_keys.made_of(bytes([n]) * 32), "app", 0) for n in (1, 2)]
    origins = {Caller(key=key).origin for key in kept}
    assert len(origins) == 2
    assert ANYBODY.origin == Caller(admin=True).origin == callers.ANYBODY
    assert callers.ANYBODY not in origins


def test_each_caller_over_http_has_results_of_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            loop, options = asyncio.get_running_loop(), {"idempotencyKey": "k"}
            head = contract.parse(contract.InferenceHead, {"modelId": "m1", "options": options})
            packed = wire.pack_head({"modelId": "m1", "options": options})
            told = []
            for origin in ("alice", "bob", "alice"):
                reply = await h.service.route(
                    head, packed, wire.JSON, b'"hello"', loop.time() + 10, caller="", origin=origin
                )
                told.append(wire.unpack_head(reply.head)["idempotency"])
            assert told == ["ran", "ran", "stored"]

    run(story())
