"""The HTTP face of a standalone orchestrator: its bounds, callers who leave, and its stop."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from tests.fakes.aio import LoopName, eventually, open_files, run
from tests.fakes.http_house import (
    REGISTER,
    ROUTE,
    House,
    Raw,
    admin_key,
    get,
    house,
    network,
    running,
    service_of,
    settings_of,
)
from wrk_base.config import HttpSettings, RpcSettings, StopSettings
from wrk_orchestrator.http.app import App
from wrk_orchestrator.http.server import HttpServer

LOOPS: tuple[LoopName, ...] = ("asyncio", "uvloop")


# --- it keeps its bounds


@pytest.mark.parametrize("loop", LOOPS)
def test_twenty_megabytes_in_chunks_are_413_and_the_caller_reads_it(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
            for path in (ROUTE, REGISTER, "/unheard"):
                raw = await h.connect()
                raw.send(f"POST {path} HTTP/1.1\nhost: localhost\ntransfer-encoding: chunked")
                for _ in range(20):
                    raw.writer.write(chunk)
                    await raw.writer.drain()
                raw.writer.write(b"0\r\n\r\n")
                status, headers, body = await raw.answer()
                assert (status, headers["connection"]) == (413, "close")
                assert body["error"]["code"] == "ERR_BAD_REQUEST"
                assert body["error"]["requestId"] == headers["x-request-id"]
                assert await raw.end() == b""
                await raw.close()
            assert (await h.route()).status_code == 200

    run(story(), loop)


def test_a_declared_length_is_refused_before_a_byte_of_it_is_sent(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service:
            raw = await Raw.connect(service.http_endpoint)
            raw.send(
                f"POST {ROUTE} HTTP/1.1\nhost: localhost\nexpect: 100-continue\ncontent-length: 20000000"
            )
            status, headers, body = await raw.answer()
            assert (status, headers["connection"]) == (413, "close")
            assert body["error"]["data"] == {"limitBytes": 16_777_216}
            await raw.close()

    run(story())


def test_the_limit_itself_is_within_the_limit(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, http=HttpSettings(body_limit=2000)) as service:
            url = service.http_endpoint
            async with httpx.AsyncClient(base_url=url) as http:
                body = b'{"modelId":"m","simulate":true,"inputData":"%s"}'
                fits = body % (b"x" * (2000 - len(body) + 2))
                assert len(fits) == 2000
                assert (await http.post(ROUTE, content=fits)).status_code == 200
                assert (await http.post(ROUTE, content=fits + b" ")).status_code == 413

    run(story())


def test_a_body_that_no_link_can_carry_is_413_and_no_worker_is_blamed(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, rpc=RpcSettings(port=0, max_body=1_048_576)) as h:
            heavy = await h.route("x" * 1_048_576)
            assert (heavy.status_code, heavy.json()["error"]["code"]) == (413, "ERR_BAD_REQUEST")
            assert heavy.json()["error"]["data"] == {"limitBytes": 1_048_576}
            assert (await h.route("x" * (1_048_576 - 2))).status_code == 200  # the quotes are sent, too
            assert calls_of(h) == (1, 0)

    run(story())


def test_a_head_that_no_link_can_carry_is_413_and_no_worker_is_blamed(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            heavy = await h.route(options={"note": "x" * 1_048_576})
            assert (heavy.status_code, heavy.json()["error"]["code"]) == (413, "ERR_BAD_REQUEST")
            assert heavy.json()["error"]["data"] == {"limitBytes": 1_048_576}
            assert (await h.route(options={"note": "x" * 1_000_000})).status_code == 200
            assert calls_of(h) == (1, 0)

    run(story())


def test_a_body_longer_than_a_message_reaches_the_rack_and_comes_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            answer = await h.route("x" * 5_000_000)
            assert answer.status_code == 200
            assert answer.json()["result"] == "x" * 5_000_000
            assert calls_of(h) == (1, 0)

    run(story())


def test_a_body_that_never_arrives_is_408(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, http=HttpSettings(body_timeout=50)) as service:
            raw = await Raw.connect(service.http_endpoint)
            raw.send(f"POST {ROUTE} HTTP/1.1\nhost: localhost\ncontent-length: 100", b'{"modelId":')
            status, headers, body = await raw.answer()
            assert (status, headers["connection"]) == (408, "close")
            assert body["error"]["code"] == "ERR_DEADLINE_EXCEEDED"
            await raw.close()

    run(story())


def test_a_request_that_names_no_deadline_has_the_one_of_the_settings(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, request_timeout=50) as h:
            patient = h.hold(options={"timeoutMs": 20_000})
            late = await h.hold()
            assert (late.status_code, late.json()["error"]["code"]) == (504, "ERR_DEADLINE_EXCEEDED")
            h.rack.go_on.set()
            assert (await patient).status_code == 200

    run(story())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\x00" * 500, b"GET\r\n\r\n"])
def test_what_is_no_http_gets_a_json_answer_too(loop: LoopName, noise: bytes, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service:
            raw = await Raw.connect(service.http_endpoint)
            raw.writer.write(noise)
            status, headers, body = await raw.answer()
            assert (status, headers["connection"]) == (400, "close")
            assert body["error"]["requestId"] == headers["x-request-id"]
            assert await raw.end() == b""
            await raw.close()
            assert (await get(service, "/health")).status_code == 200

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_endless_head_is_431(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service:
            raw = await Raw.connect(service.http_endpoint)
            raw.writer.write(b"GET /health HTTP/1.1\r\nx-endless: ")
            for _ in range(16):
                raw.writer.write(b"x" * 100_000)
                await raw.writer.drain()
            status, headers, _ = await raw.answer()
            assert (status, headers["connection"]) == (431, "close")
            await raw.close()
            ample = {"x-ample": "x" * 60_000}
            async with httpx.AsyncClient(base_url=service.http_endpoint) as http:
                assert (await http.get("/health", headers=ample)).status_code == 200

    run(story(), loop)


# --- callers who leave


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", ["close", "half-close", "reset"])
def test_a_caller_who_leaves_cancels_the_work_in_the_rack(loop: LoopName, way: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            raw = await h.connect()
            raw.post(b'{"modelId":"m1","inputData":{"stage":"wait"}}')
            await h.held()
            assert h.load() == 1
            if way == "reset":
                raw.reset()
            elif way == "half-close":
                raw.writer.write_eof()
            else:
                raw.writer.close()
            await eventually(lambda: h.rack.cancelled == 1)
            await eventually(lambda: h.load() == 0)
            await raw.close()
            assert (await h.route()).status_code == 200

    run(story(), loop)


def test_a_caller_who_leaves_in_the_middle_of_a_body_is_forgotten(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            raw = await h.connect()
            raw.send(f"POST {ROUTE} HTTP/1.1\nhost: localhost\ncontent-length: 100", b'{"modelId":')
            await raw.close()
            assert (await h.route()).status_code == 200
            assert h.rack.entered == 1

    run(story())


@pytest.mark.parametrize("loop", LOOPS)
def test_pipelined_requests_are_answered_in_their_order(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            raw = await h.connect()
            raw.post(b'{"modelId":"m1","inputData":{"stage":"wait","n":1}}')
            raw.post(b'{"modelId":"m1","inputData":{"n":2}}')
            raw.send("GET /unheard HTTP/1.1\nhost: localhost")
            await h.held()
            h.rack.go_on.set()
            first, second, third = [await raw.answer() for _ in range(3)]
            assert first[2]["result"] == {"stage": "wait", "n": 1}
            assert second[2]["result"] == {"n": 2}
            assert third[0] == 404
            await raw.close()

    run(story(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_caller_who_pipelines_and_leaves_does_no_harm(
    loop: LoopName, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server does not see this caller leave, so the work ends by itself, and nothing is said about it."""

    async def story() -> None:
        async with house(tmp_path) as h:
            raw = await h.connect()
            raw.post(b'{"modelId":"m1","inputData":{"stage":"wait"}}')
            raw.post(b'{"modelId":"m1","inputData":{"n":2}}')
            await h.held()
            raw.reset()
            with capture_logs() as logs:
                h.rack.go_on.set()
                await eventually(lambda: h.load() == 0)
                assert (await h.route()).status_code == 200
            assert [event for event in logs if event["event"] == "http.failed"] == []
            assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []

    run(story(), loop)


# --- it stops


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stop_refuses_what_is_new_and_finishes_what_is_under_way(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, http=HttpSettings(shutdown_timeout=0)) as h:
            assert (await h.http.get("/ready")).status_code == 200
            held = h.hold()
            await h.held()
            stopping = asyncio.create_task(h.service.stop())
            await eventually(lambda: h.service.stopping)

            ready = await h.http.get("/ready")
            assert (ready.status_code, ready.headers["connection"]) == (503, "close")
            assert "draining" in ready.json()["error"]["message"]
            assert (await h.http.get("/health")).status_code == 200
            late = await h.route()
            assert (late.status_code, late.headers["retry-after"]) == (503, "1")
            assert not stopping.done()

            h.rack.go_on.set()
            assert (await held).status_code == 200
            await stopping
            with pytest.raises(httpx.ConnectError):
                await h.http.get("/health")

    run(story(), loop)


def test_a_drain_that_is_cut_tells_its_callers(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, stop=StopSettings(drain_timeout=50)) as h:
            held = h.hold()
            await h.held()
            await h.service.stop()
            cut = await held
            assert (cut.status_code, cut.json()["error"]["code"]) == (503, "ERR_UNAVAILABLE")
            assert cut.headers["x-request-id"] == cut.json()["error"]["requestId"]
            await eventually(lambda: h.rack.cancelled == 1)

    run(story())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_caller_who_reads_no_answers_does_not_hold_up_the_stop(loop: LoopName, tmp_path: Path) -> None:
    settings = {"stop": StopSettings(drain_timeout=50), "http": HttpSettings(shutdown_timeout=50)}

    async def story() -> None:
        async with house(tmp_path, **settings) as h:
            raw = await h.connect()
            for _ in range(20):  # more than the buffers of both sides take
                raw.post(b'{"modelId":"m1","inputData":"%s"}' % (b"x" * 1_000_000))
            await h.held(2)
            await h.service.stop()
            await raw.close()

    run(story(), loop)


def test_a_stopped_server_keeps_no_connection_whose_caller_takes_nothing() -> None:
    streaming = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        streaming.set()
        while True:  # gives the loop a turn only when there is no more room on the way
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})

    async def story() -> None:
        before = open_files()
        server = HttpServer(cast(App, endless), "127.0.0.1", 0, HttpSettings(shutdown_timeout=0))
        port = int((await server.start()).rpartition(":")[2])
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(("127.0.0.1", port))
            caller.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await streaming.wait()
            await server.stop()
            await eventually(lambda: open_files() == before + 1)

    run(story())


def test_a_second_signal_ends_the_drain(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            held = h.hold()
            await h.held()
            stopping = asyncio.create_task(h.service.stop())
            await eventually(lambda: h.service.stopping)
            h.service.hurry()
            assert (await held).status_code == 503
            await stopping

    run(story())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("patience", [0, 50])
def test_connections_that_do_not_end_are_cut(loop: LoopName, patience: int, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, http=HttpSettings(shutdown_timeout=patience)) as service:
            idle = await Raw.connect(service.http_endpoint)
            idle.send("GET /health HTTP/1.1\nhost: localhost")
            assert (await idle.answer())[0] == 200
            half = await Raw.connect(service.http_endpoint)
            half.send(f"POST {ROUTE} HTTP/1.1\nhost: localhost\ncontent-length: 100", b'{"modelId":')
            mute = await Raw.connect(service.http_endpoint)
            assert (await get(service, "/health")).status_code == 200
            await service.stop()
            assert await idle.end() == b""
            assert (await half.answer())[0] == 503
            assert await half.end() == b""
            try:
                assert await mute.end() == b""
            except ConnectionError:
                pass
            for raw in (idle, half, mute):
                await raw.close()

    run(story(), loop)


def test_it_can_be_started_anew_on_its_port_with_what_was_registered_by_hand(tmp_path: Path) -> None:
    async def story() -> None:
        async with network() as net:
            first = service_of(net, tmp_path)
            await first.start()
            headers = {"x-wrk-admin-key": admin_key(tmp_path)}
            async with httpx.AsyncClient(base_url=first.http_endpoint, headers=headers) as http:
                worker = {"workerId": "w9", "address": "tcp://127.0.0.1:9"}
                assert (await http.post(REGISTER, json=worker)).status_code == 200
                await first.stop()
            port = int(first.http_endpoint.rpartition(":")[2])
            second = service_of(net, tmp_path, msgspec.structs.replace(settings_of(), port=port))
            await second.start()
            assert second.http_endpoint == first.http_endpoint
            assert (await get(second, "/api/workers/w9")).json()["worker"]["foundBy"] == "http"
            await second.stop()

    run(story())


def calls_of(house: House) -> tuple[int, int]:
    """How many requests its rack got, and how many of them failed."""
    stats = house.service.load_balancing_stats()["workers"]["r1-1"]
    return stats["requestCount"], stats["failureCount"]
