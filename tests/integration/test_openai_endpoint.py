"""The endpoints of OpenAI's API by the byte: what passes through, how streams are framed and broken off, what
becomes of a request whose caller leaves, and that nothing is left of any of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.aio import LoopName, eventually, run
from tests.fakes.http_house import House, Raw, StagedRack, house
from wrk_base import contract, errors
from wrk_base.config import HttpSettings, RoutingSettings
from wrk_base.rack import SUCCESS
from wrk_base.rpc import wire
from wrk_base.rpc.request import Final, Packed, Request

LOOPS: tuple[LoopName, ...] = ("asyncio", "uvloop")
CHAT = "/v1/chat/completions"
ODD = b'{"model":"m1", "stream":false,"new_field":{"z":1.10,"a":[1e400]},"messages":[{"content":"\\u00e9"}]}'
WHOLE = b'{"id":"x",  "object":"chat.completion","choices":[{"index":0,"message":{"content":"hi"}}],"n":1.0}'


KINDS = {b"json": wire.JSON, b"events": wire.OCTETS, b"msgpack": wire.MSGPACK}


class PassingRack(StagedRack):
    """Says what it is told to: `bytes` go out as they are, and a stream as the test feeds it."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.asked: list[tuple[bytes, contract.InferenceHead]] = []
        self.unary: bytes | errors.WrkError = WHOLE
        self.feed: asyncio.Queue[bytes | errors.WrkError | None] = asyncio.Queue()
        self.made = 0

    async def serve(self, request: Request, head: contract.InferenceHead) -> None:
        self.entered += 1
        self.asked.append((bytes(request.payload), head))
        if request.wants_stream and self.unary is not WHOLE:
            await request.produce(self._items(), {"success": True})
        elif isinstance(self.unary, errors.WrkError):
            raise self.unary
        else:
            request.answer(SUCCESS, wire.JSON, self.unary)

    async def _items(self) -> AsyncIterator[Any]:
        assert isinstance(self.unary, bytes)
        try:
            while (said := await self.feed.get()) is not None:
                if isinstance(said, errors.WrkError):
                    raise said
                self.made += 1
                yield Packed(KINDS[self.unary], said)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        yield Final(None)

    def says(self, *items: bytes | errors.WrkError | None, kind: bytes = b"json") -> None:
        """What comes of the next stream, JSON or whole events or msgpack; None is its end."""
        self.unary = kind
        for item in items:
            self.feed.put_nowait(item)


def rack_in(h: House) -> PassingRack:
    assert isinstance(h.rack, PassingRack)
    return h.rack


async def empty(h: House) -> None:
    """Nothing is left of any request."""
    await eventually(lambda: h.load() == 0 and h.rack.running == 0)
    assert h.service.held.used == 0
    assert h.service.balancer.leases == 0


def post(raw: Raw, body: bytes) -> None:
    raw.send(f"POST {CHAT} HTTP/1.1\nhost: localhost\ncontent-length: {len(body)}", body)


STREAM = b'{"model":"m1","stream":true,"messages":[]}'


# --- what passes through


@pytest.mark.parametrize("loop", LOOPS)
def test_bodies_pass_as_the_bytes_that_came(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            answer = await h.http.post(CHAT, content=ODD, headers={"x-request-id": "mine-1"})
            assert (answer.status_code, answer.content) == (200, WHOLE)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-request-id"] == "mine-1"
            assert answer.headers["x-wrk-worker"] == h.rack.identity.worker_id
            assert answer.headers["x-wrk-attempts"] == "1"
            ((asked, head),) = rack_in(h).asked
            assert asked == ODD
            assert (head.model_id, head.options.task) == ("m1", "chat")
            await empty(h)

    run(story(), loop)


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1//chat/completions/", "chat"),
        ("/v1/completions", "completion"),
        ("/v1/embeddings", "embedding"),
        ("/v1/rerank", "rerank"),
        ("/v1/responses", "response"),
    ],
)
def test_each_path_is_a_task(path: str, task: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            assert (await h.http.post(path, json={"model": "m1"})).content == WHOLE
            assert rack_in(h).asked[0][1].options.task == task

    run(story())


def test_a_body_that_comes_in_pieces_is_routed_when_it_is_whole(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            raw = await h.connect()
            head = f"POST {CHAT} HTTP/1.1\nhost: localhost\ncontent-length: {len(ODD)}"
            raw.send(head, ODD[:10])
            await eventually(lambda: h.service.held.used == 10)
            raw.writer.write(ODD[10:])
            status, headers, said = await raw.answer()
            assert (status, said) == (200, msgspec.json.decode(WHOLE))
            assert headers["x-wrk-worker"] == h.rack.identity.worker_id
            assert rack_in(h).asked[0][0] == ODD
            await raw.close()
            await empty(h)

    run(story())


def test_who_waits_for_leave_to_send_the_body_gets_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            raw = await h.connect()
            raw.send(
                f"POST {CHAT} HTTP/1.1\nhost: localhost\nexpect: 100-continue\ncontent-length: {len(ODD)}"
            )
            assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            raw.writer.write(ODD)
            assert (await raw.answer())[0] == 200
            await raw.close()
            await empty(h)

    run(story())


def test_requests_behind_one_another_are_answered_in_turn(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            raw = await h.connect()
            for number in range(3):
                post(raw, b'{"model":"m1","n":%d}' % number)
            post(raw, b'{"model":"never seen"}')
            assert [(await raw.answer())[0] for _ in range(4)] == [200, 200, 200, 404]
            assert [body for body, _ in rack_in(h).asked] == [b'{"model":"m1","n":%d}' % n for n in range(3)]
            await raw.close()
            await empty(h)

    run(story())


def test_whoever_speaks_for_a_session_or_a_class_is_heard(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            for body, headers, session, priority in (
                ({}, {}, None, "default"),
                ({"user": "u1"}, {}, "u1", "default"),
                ({"user": "u1", "sessionId": "s1"}, {}, "s1", "default"),
                ({"user": "u1"}, {"x-wrk-session": "h1", "x-wrk-priority": "bulk"}, "h1", "bulk"),
                ({"user": 7}, {}, None, "default"),
            ):
                assert (
                    await h.http.post(CHAT, json={"model": "m1", **body}, headers=headers)
                ).status_code == 200
                options = rack_in(h).asked[-1][1].options
                assert (options.session_id, options.priority) == (session, priority)

    run(story())


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_wants_to_know_is_told_why_it_was_this_rack(stream: bool, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            if stream:
                rack_in(h).says(b"{}", None)
            body = {"model": "m1", "stream": stream}
            answer = await h.http.post(CHAT, json=body, headers={"x-wrk-explain": "1"})
            told = msgspec.json.decode(answer.headers["x-wrk-explain"])
            assert (told["strategy"], told["queuedMs"]) == ("round-robin", 0)
            (candidate,) = told["looks"][0]["candidates"]
            assert (candidate["workerId"], candidate["excluded"]) == (h.rack.identity.worker_id, None)
            (hop,) = told["hops"]
            assert (hop["workerId"], hop["outcome"]) == (candidate["workerId"], "open" if stream else "ok")
            h.service.balancer.set_limit(candidate["workerId"], 0)
            nobody = await h.http.post(CHAT, json=body, headers={"x-wrk-explain": "1"})
            told = msgspec.json.decode(nobody.headers["x-wrk-explain"])
            assert (nobody.status_code, told["hops"]) == (503, [])
            assert told["looks"][0]["candidates"][0]["excluded"] == "not routable"
            assert "x-wrk-explain" not in (await h.http.post(CHAT, json=body)).headers

    run(story())


# --- streams


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stream_is_events_and_the_first_comes_at_once(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack = rack_in(h)
            rack.says(b'{"n":1}')
            async with h.http.stream("POST", CHAT, content=STREAM) as answer:
                assert answer.status_code == 200
                assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert answer.headers["x-wrk-worker"] == h.rack.identity.worker_id
                lines = answer.aiter_lines()
                assert [await anext(lines), await anext(lines)] == ['data: {"n":1}', ""]
                rack.says(b'{"n":\n2}', None)  # a line end in it would end the event
                assert [line async for line in lines] == ['data: {"n":2}', "", "data: [DONE]", ""]
            await empty(h)

    run(story(), loop)


def test_events_that_a_rack_has_whole_pass_as_they_are(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            events = (
                b'event: response.created\ndata: {"a":1}\n\n',
                b"event: response.completed\ndata: {}\n\n",
            )
            rack_in(h).says(*events, None, kind=b"events")
            answer = await h.http.post("/v1/responses", content=STREAM)
            assert answer.content == b"".join(events)

    run(story())


def test_a_rack_that_does_not_stream_is_heard_as_one_event(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            said = (await h.http.post(CHAT, content=STREAM)).text.split("\n\n")
            assert said[1:] == ["data: [DONE]", ""]
            event = msgspec.json.decode(said[0].removeprefix("data: "))
            assert event["object"] == "chat.completion.chunk"
            assert event["choices"] == [{"index": 0, "delta": {"content": "hi"}}]

    run(story())


def test_an_old_client_reads_a_stream_to_its_end(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack_in(h).says(b"{}", None)
            raw = await h.connect()
            raw.send(f"POST {CHAT} HTTP/1.0\nhost: localhost\ncontent-length: {len(STREAM)}", STREAM)
            head, _, body = (await raw.end()).partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head
            assert body == b"data: {}\n\ndata: [DONE]\n\n"
            await raw.close()

    run(story())


def test_a_long_silence_is_broken_by_comments(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack, http=HttpSettings(stream_keep_alive=100)) as h:
            rack_in(h).says()
            async with h.http.stream("POST", CHAT, content=STREAM) as answer:
                lines = answer.aiter_lines()
                assert [await anext(lines) for _ in range(4)] == [": waiting", "", ": waiting", ""]
                rack_in(h).says(b"{}", None)
                assert [line async for line in lines if line.startswith("data")] == [
                    "data: {}",
                    "data: [DONE]",
                ]

    run(story())


def test_a_stream_that_breaks_ends_in_an_event_that_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack_in(h).says(b'{"n":1}', errors.Internal("the model fell over"))
            answer = await h.http.post(CHAT, content=STREAM)
            one, broken, rest = answer.text.split("\n\n")
            assert (answer.status_code, one, rest) == (200, 'data: {"n":1}', "")
            error = msgspec.json.decode(broken.removeprefix("data: "))["error"]
            assert (error["type"], error["code"]) == ("server_error", "internal")
            assert "fell over" in error["message"]
            await empty(h)

    run(story())


def test_items_in_msgpack_are_told_in_json_and_what_is_no_item_breaks_the_stream(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack_in(h).says(b"\x81\xa1n\x01", b"\xc1", kind=b"msgpack")
            one, broken, _ = (await h.http.post(CHAT, content=STREAM)).text.split("\n\n")
            assert one == 'data: {"n":1}'
            assert "cannot be put into JSON" in broken
            await eventually(lambda: h.rack.cancelled == 1)
            await empty(h)

    run(story())


def test_a_stream_that_never_began_has_the_status_of_its_error(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack_in(h).says(errors.BadRequest("too long", data={"field": "messages"}))
            answer = await h.http.post(CHAT, content=STREAM)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "messages"

    run(story())


# --- callers who leave, or do not read


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("begun", [False, True])
def test_a_caller_who_leaves_stops_the_rack(loop: LoopName, begun: bool, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack_in(h).says(*([b"{}"] if begun else []))
            raw = await h.connect()
            post(raw, STREAM)
            await h.held()
            if begun:
                await raw.reader.readuntil(b"data: {}\n\n")
            raw.reset()
            await eventually(lambda: h.rack.cancelled == 1)
            await empty(h)
            assert not h.service._openai.answers.running

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_caller_who_does_not_read_stops_the_rack_from_making_more(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack, item, many = rack_in(h), b'"%s"' % (b"x" * 60_000), 400
            rack.says(*[item] * many, None)
            raw = await h.connect()
            post(raw, STREAM)
            await raw.reader.readuntil(b"data: ")
            stalls = h.rack.server.handlers["runInference"].stats
            await eventually(lambda: stalls.credit_stalls > 0)
            assert rack.made < many
            await asyncio.to_thread(lambda: None)
            while b"[DONE]" not in await raw.reader.read(1_000_000):
                pass
            assert rack.made == many
            await raw.close()
            await empty(h)

    run(story(), loop)


# --- refusals, in the shape that clients read


def test_errors_have_the_shape_of_openais(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            for content, status, param, code in (
                (b'{"model":"nobody"}', 404, "model", "model_not_found"),
                (b'{"messages":[]}', 400, "model", "bad_request"),
                (b'{"model":3}', 400, "model", "bad_request"),
                (b"{", 400, None, "bad_request"),
            ):
                answer = await h.http.post(CHAT, content=content)
                error = answer.json()["error"]
                assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
                assert error["type"] == "invalid_request_error"
                assert answer.headers["x-request-id"]
            assert (await h.http.get("/v1/nothing")).json()["error"]["code"] == "not_found"
            assert (await h.http.get(CHAT)).status_code == 405
            wrong = await h.http.post(CHAT, content=b"a=b", headers={"content-type": "text/plain"})
            assert wrong.status_code == 415

    run(story())


def test_what_the_server_behind_the_rack_refused_is_told_as_it_said_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            said = {"status": 418, "contentType": "text/plain", "body": "short and stout"}
            rack_in(h).unary = errors.UpstreamFailed("it refused", data=said)
            answer = await h.http.post(CHAT, content=ODD)
            assert (answer.status_code, answer.text) == (418, "short and stout")
            assert answer.headers["content-type"] == "text/plain"
            assert answer.headers["x-wrk-worker"] == h.rack.identity.worker_id
            full = {"status": 429, "contentType": "application/json", "body": "{}"}
            rack_in(h).unary = errors.UpstreamFailed("full", data=full, not_started=True, retry_after_ms=7000)
            answer = await h.http.post(CHAT, content=ODD)
            assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (429, "{}", "7")

    run(story())


def test_a_body_longer_than_the_limit_is_refused_in_one_read_and_in_many(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack, http=HttpSettings(body_limit=1024)) as h:
            for size in (1025, 200_000):
                answer = await h.http.post(CHAT, content=b'{"model":"m1","x":"%s"}' % (b"x" * size))
                assert answer.status_code == 413
                assert answer.json()["error"]["type"] == "invalid_request_error"
            await empty(h)

    run(story())


# --- models, and the stop


def test_models_are_listed_and_shown(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            (model,) = (await h.http.get("/v1/models")).json()["data"]
            assert (model["id"], model["object"], model["owned_by"]) == ("m1", "model", "wrk")
            assert (await h.http.get("/v1/models/m1")).json() == model
            unknown = await h.http.get("/v1/models/org/name")
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")

    run(story())


class LoadingRack(PassingRack):
    """Serves m1 at once, and m2 when it was told to load it."""

    loaded = ("m1",)

    def describe(self) -> contract.Description:
        cold = [name for name in ("m2",) if name not in self.loaded]
        return contract.Description(models=list(self.loaded), cold=cold, max_concurrent=self.capacity)

    async def load_model(self, model_id: str) -> None:
        self.loaded = ("m1", model_id)
        self.offer_changed()


def test_models_that_are_not_loaded_are_listed_and_loaded_for_who_asks(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, LoadingRack) as h:
            listed = (await h.http.get("/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == ["m1", "m2"]
            assert (await h.http.get("/v1/models/m2")).status_code == 200
            answer = await h.http.post(CHAT, json={"model": "m2", "messages": []})
            assert (answer.status_code, answer.content) == (200, WHOLE)
            assert h.service.admission.waiting == 0

    run(story())


def test_what_a_header_requires_and_a_body_hints_at_narrows_the_choice(tmp_path: Path) -> None:
    image = (
        b'{"model":"m1","messages":[{"content":[{"type":"image_url","image_url":{"url":"x"}}]}],"tools":[1]}'
    )

    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            assert (await h.http.post(CHAT, content=image)).status_code == 200, (
                "nobody tells: nobody is cut off"
            )
            for requires, status, code in (
                ("vision", 503, "no_workers_match_requirements"),
                ("context=1", 503, "no_workers_match_requirements"),
                ("context=long", 400, "bad_request"),
                ("capacity=100", 200, None),
            ):
                answer = await h.http.post(CHAT, content=ODD, headers={"x-wrk-requires": requires})
                assert (answer.status_code, answer.json().get("error", {}).get("code")) == (status, code)
            assert rack_in(h).asked[-1][1].options.requirements.min_capacity == 100

            registry, worker = h.service.registry, h.rack.identity.worker_id
            held = registry.get(worker)
            assert held is not None
            facts = {"m1": contract.ModelFacts(["vision"], 8192)}
            other = replace(held, worker_id="sees", address="tcp://127.0.0.1:9", instance_id="", facts=facts)
            h.service.balancer.apply(registry.register(other, 0.0))
            assert (await h.http.post(CHAT, content=image)).status_code == 503, (
                "the one that sees is not there"
            )
            assert (await h.http.post(CHAT, content=ODD)).status_code == 200
            h.service.balancer.apply(registry.remove("sees"))
            await empty(h)

    run(story())


def test_other_names_are_answered_listed_and_told_with_the_model_that_served(tmp_path: Path) -> None:
    names = {"aliases": {"gpt-4o": "m1", "nobody": "m9"}, "fallbacks": {"large": ["m1"], "m9": ["m8"]}}

    async def story() -> None:
        async with house(tmp_path, PassingRack, routing=RoutingSettings(**names)) as h:
            for name in ("gpt-4o", "large"):
                body = b'{"model":"%b","messages":[]}' % name.encode()
                answer = await h.http.post(CHAT, content=body)
                assert (answer.status_code, answer.headers["x-wrk-model"]) == (200, "m1")
                asked, head = rack_in(h).asked[-1]
                assert (asked, head.model_id, head.options.task) == (body, "m1", "chat")
                assert (await h.http.get(f"/v1/models/{name}")).json()["id"] == name
            assert "x-wrk-model" not in (await h.http.post(CHAT, content=ODD)).headers
            listed = (await h.http.get("/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == ["gpt-4o", "large", "m1"]
            assert (await h.http.get("/v1/models/nobody")).status_code == 404
            await empty(h)

    run(story())


def test_a_stop_waits_for_streams_and_tells_those_that_it_cuts(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, PassingRack) as h:
            rack_in(h).says(b"{}")
            raw = await h.connect()
            post(raw, STREAM)
            await raw.reader.readuntil(b"data: {}\n\n")
            stopping = asyncio.create_task(h.service.stop())
            await eventually(lambda: h.service.stopping)
            late = await h.connect()
            post(late, STREAM)
            status, headers, said = await late.answer()
            assert (status, said["error"]["type"], headers["connection"]) == (503, "server_error", "close")
            h.service.hurry()
            assert b'"type":"server_error"' in await raw.end()
            await stopping
            await raw.close()
            await late.close()

    run(story())
