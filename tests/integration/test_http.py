"""The HTTP face of a standalone orchestrator: how it starts, what it answers, what it refuses."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from tests.fakes.aio import LoopName, eventually, run
from tests.fakes.http_house import (
    REGISTER,
    ROUTE,
    SIMULATE,
    StagedRack,
    admin_key,
    get,
    house,
    network,
    rack_of,
    running,
    service_of,
    settings_of,
)
from wrk_base.config import RoutingSettings
from wrk_base.discovery import OnFound, combine
from wrk_base.discovery.advert import Advert
from wrk_base.discovery.static import StaticDiscovery
from wrk_base.errors import StartError
from wrk_base.model_servers.recognition import Nobody
from wrk_base.model_servers.search import look
from wrk_orchestrator.worker import OrchestratorService

LOOPS: tuple[LoopName, ...] = ("asyncio", "uvloop")


# --- it starts


@pytest.mark.parametrize("loop", LOOPS)
def test_it_accepts_once_it_has_started_and_says_where(loop: LoopName, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)

    async def story() -> None:
        async with running(tmp_path) as service:
            assert service.started.is_set()
            assert signal.getsignal(signal.SIGTERM) is handler
            assert service.status()["http"] == service.http_endpoint
            assert service.http_endpoint.startswith("http://127.0.0.1:")
            assert (await get(service, "/health")).json()["status"] == "alive"
            assert (await get(service, "/ready")).json() == {"success": True, "ready": True}

    run(story(), loop)


def test_until_it_has_started_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    class Slow(StaticDiscovery):
        """Its start lasts until the test says so."""

        begun, go_on = asyncio.Event(), asyncio.Event()

        async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
            self.begun.set()
            await self.go_on.wait()

    async def story() -> None:
        async with network() as net:
            slow = Slow([])
            service = service_of(net, tmp_path, discovery=combine(slow, log=structlog.get_logger()))
            starting = asyncio.create_task(service.start())
            await slow.begun.wait()
            assert (await get(service, "/health")).status_code == 200
            ready = await get(service, "/ready")
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
            assert "starting" in ready.json()["error"]["message"]
            async with httpx.AsyncClient(base_url=service.http_endpoint) as http:
                early = await http.post(ROUTE, json={"modelId": "m1", "inputData": 1, "simulate": True})
            assert (early.status_code, early.json()["error"]["code"]) == (503, "ERR_UNAVAILABLE")
            slow.go_on.set()
            await starting
            assert (await get(service, "/ready")).status_code == 200
            await service.stop()

    run(story())


def test_in_the_first_moments_requests_are_taken_and_wait_and_nothing_is_said_not_to_be_there(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with running(tmp_path, start_grace=60_000) as service:
            ready = await get(service, "/ready")
            assert (ready.status_code, "looks for its racks" in ready.text) == (503, True)
            for path in ("/api/workers/r1-1", "/v1/models/m1"):
                early = await get(service, path)
                assert (early.status_code, "just started" in early.text) == (503, True)
            async with httpx.AsyncClient(base_url=service.http_endpoint) as http:
                chat = {"model": "m1", "messages": [{"role": "user", "content": "x"}]}
                asked = [
                    asyncio.ensure_future(http.post(ROUTE, json={"modelId": "m1", "inputData": 1})),
                    asyncio.ensure_future(http.post("/v1/chat/completions", json=chat)),
                ]
                await eventually(lambda: service.admission.waiting == 2)
                rack = rack_of(service.context.network, tmp_path, service.endpoint)
                await rack.start()
                assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]
                await service.stop()
                await rack.stop()

    run(story())


def test_a_port_in_use_stops_the_start_with_advice_and_leaves_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with network() as net:
                service = service_of(net, tmp_path, msgspec.structs.replace(settings_of(), port=port))
                with pytest.raises(StartError) as caught:
                    await service.start()
            assert str(caught.value) == (
                f"cannot listen on http 127.0.0.1:{port}: the port is in use. Stop the process that has it, "
                "or choose another with --port (0 lets the system choose)"
            )

    run(story())


# --- it answers


def test_every_get_endpoint_answers(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            status = (await h.http.get("/api/status")).json()
            assert status["registry"]["models"] == {"m1": 1}
            stats = (await h.http.get("/api/load-balancer")).json()
            assert set(stats["workers"]) == {"r1-1"}
            document = (await h.http.get("/openapi.json")).json()
            assert ROUTE in document["paths"]
            page = await h.http.get("/docs")
            assert page.headers["content-type"].startswith("text/html")
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
            head = await h.http.head("/health")
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) > 0

    run(story())


def test_workers_are_registered_found_filtered_and_removed(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            by_hand = {"workerId": "w9", "address": "tcp://127.0.0.1:9", "capabilities": {"models": ["m9"]}}
            entered = await h.http.post(REGISTER, json=by_hand)
            assert (entered.status_code, entered.json()["workerId"]) == (200, "w9")
            assert entered.json()["leaseMs"] == 30_000

            async def listed(**query: str) -> set[str]:
                found = (await h.http.get("/api/workers", params=query)).json()
                return {worker["workerId"] for worker in found["workers"]}

            assert await listed() == {"r1-1", "w9"}
            assert await listed(modelId="m9") == {"w9"}
            assert await listed(state="healthy") == {"r1-1"}
            assert await listed(modelId="m9", state="healthy") == set()
            one = (await h.http.get("/api/workers/w9")).json()["worker"]
            assert (one["manual"], one["foundBy"]) == (True, "http")

            found = await h.http.post("/api/workers/find", json={"modelId": "m1"})
            assert found.json()["worker"]["workerId"] == "r1-1"

            gone = await h.http.delete("/api/workers/w9")
            assert (gone.status_code, gone.json()) == (200, {"success": True})
            assert (await h.http.get("/api/workers/w9")).status_code == 404
            assert await listed() == {"r1-1"}

    run(story())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_is_routed_and_its_result_comes_back_as_it_was(loop: LoopName, tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            odd = {"text": "grüße", "numbers": [1, 2.5, None], "deep": {"a": [{}]}}
            answer = (await h.route(odd, options={"task": "raw", "later": 1})).json()
            assert answer.pop("routedAt") > 0
            assert answer.pop("requestId")
            assert answer == {"success": True, "result": odd, "workerId": "r1-1", "attempts": 1}

    run(story(), loop)


def test_many_at_once_get_their_own_answers(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            answers = await asyncio.gather(*(h.route(number) for number in range(60)))
            assert [answer.json()["result"] for answer in answers] == list(range(60))
            assert h.load() == 0

    run(story(), "uvloop")


def test_simulate_answers_without_any_rack_and_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service, httpx.AsyncClient(base_url=service.http_endpoint) as http:
            for asked in ({"simulate": True}, {"options": {"simulate": True}}):
                answer = await http.post(ROUTE, json={"modelId": "any", "inputData": "x", **asked})
                assert answer.status_code == 200
                assert answer.json()["simulated"] is True
                assert answer.json()["result"]["simulated"] is True

    run(story())


def test_an_odd_spelling_of_the_path_is_the_same_path(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service, httpx.AsyncClient(base_url=service.http_endpoint) as http:
            for path in ("/api/inference/route/", "/api//inference/route", "/api/inference/route?x=1"):
                assert (await http.post(path, content=SIMULATE)).status_code == 200

    run(story())


# --- it refuses

WRONG = "ERR_BAD_REQUEST"
NOBODY = "ERR_NO_WORKERS_AVAILABLE"
BIG_NUMBER = b'{"modelId":"m1","inputData":1,"options":{"big":99999999999999999999999}}'
BAD: list[tuple[str, str, bytes, int, str, str | None]] = [
    ("POST", ROUTE, b"{", 400, WRONG, None),
    ("POST", ROUTE, b"[1]", 400, WRONG, None),
    ("POST", ROUTE, b"", 400, WRONG, "modelId"),
    ("POST", ROUTE, b'{"inputData":1}', 400, WRONG, "modelId"),
    ("POST", ROUTE, b'{"modelId":"m1"}', 400, WRONG, "inputData"),
    ("POST", ROUTE, b'{"modelId":"m1","inputData":1,"options":{"task":1}}', 400, WRONG, "options.task"),
    ("POST", ROUTE, b'{"modelId":"m1","inputData":' + b"[" * 50_000, 400, WRONG, None),
    ("POST", ROUTE, b'{"modelId":"m1","inputData":"\xff"}', 400, WRONG, None),
    ("POST", ROUTE, BIG_NUMBER, 400, WRONG, "options"),
    ("POST", ROUTE, b'{"modelId":"unheard","inputData":1}', 404, NOBODY, None),
    ("POST", REGISTER, b"nonsense", 400, WRONG, None),
    ("POST", REGISTER, b'{"address":"tcp://h:1"}', 400, WRONG, "workerId"),
    ("POST", REGISTER, b'{"workerId":"w","address":"nowhere"}', 400, WRONG, "address"),
    ("POST", "/api/workers/find", b"{}", 400, WRONG, "modelId"),
    ("POST", "/api/workers/find", b'{"modelId":"unheard"}', 404, NOBODY, None),
    ("GET", "/api/workers?modelId=", b"", 400, WRONG, "modelId"),
    ("GET", "/api/workers/unheard", b"", 404, "ERR_WORKER_NOT_FOUND", None),
    ("DELETE", "/api/workers/unheard", b"", 404, "ERR_WORKER_NOT_FOUND", None),
    ("GET", "/unheard", b"", 404, "ERR_NOT_FOUND", None),
    ("POST", "/unheard", b"{", 404, "ERR_NOT_FOUND", None),
    ("GET", "/docs/unheard", b"", 404, "ERR_NOT_FOUND", None),
    ("GET", "/" + "x" * 5000, b"", 404, "ERR_NOT_FOUND", None),
    ("GET", ROUTE, b"", 405, "ERR_METHOD_NOT_FOUND", None),
    ("PATCH", "/api/workers", b"{}", 405, "ERR_METHOD_NOT_FOUND", None),
]


def test_bad_input_gets_the_status_that_fits_and_a_json_body(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            for method, path, body, status, code, field in BAD:
                said = await h.http.request(method, path, content=body)
                case = (method, path[:60], body[:80], said.text)
                assert said.status_code == status, case
                assert said.headers["content-type"] == "application/json", case
                facts = said.json()["error"]
                assert (facts["code"], facts.get("field")) == (code, field), case
                assert facts["requestId"] == said.headers["x-request-id"], case
                assert len(facts["message"]) < 500, case
                assert ("allow" in said.headers) == (status == 405), case
            assert (await h.route()).status_code == 200

    run(story())


def test_a_wrong_method_is_told_the_right_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service:
            assert "POST" in (await get(service, ROUTE)).headers["allow"]

    run(story())


def test_bodies_are_json_or_of_no_declared_type(tmp_path: Path) -> None:
    kinds = {
        "application/json": 200,
        "application/json; charset=utf-8": 200,
        "Application/JSON": 200,
        "application/vnd.api+json": 200,
        None: 200,
        "application/x-www-form-urlencoded": 415,
        "text/plain": 415,
        "": 415,
    }

    async def story() -> None:
        async with running(tmp_path) as service, httpx.AsyncClient(base_url=service.http_endpoint) as http:
            worker = b'{"workerId":"w9","address":"tcp://127.0.0.1:9"}'
            for kind, status in kinds.items():
                headers = {"x-wrk-admin-key": admin_key(tmp_path)}
                if kind is not None:
                    headers["content-type"] = kind
                for path, body in ((ROUTE, SIMULATE), (REGISTER, worker)):
                    said = await http.post(path, content=body, headers=headers)
                    assert said.status_code == status, (kind, path)

    run(story())


def test_the_status_follows_what_became_of_the_request(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            h.rack.capacity = 1
            refused = await h.route({"stage": "refuse"})
            assert (refused.status_code, refused.json()["error"]["field"]) == (400, "inputData.prompt")
            failed = await h.route({"stage": "raise"})
            assert (failed.status_code, failed.json()["error"]["code"]) == (500, "ERR_INTERNAL")
            assert "secret" not in failed.text
            late = await h.route({"stage": "wait"}, options={"timeoutMs": 50})
            assert (late.status_code, late.json()["error"]["code"]) == (504, "ERR_DEADLINE_EXCEEDED")
            picky = await h.route(options={"requirements": {"capabilities": ["gpu"]}})
            assert (picky.status_code, picky.headers["retry-after"]) == (503, "1")
            assert picky.json()["error"]["code"] == "ERR_NO_WORKERS_MATCH_REQUIREMENTS"

    run(story())


def test_an_alias_and_a_fallback_are_answered_with_the_model_that_served(tmp_path: Path) -> None:
    routing = RoutingSettings(aliases={"gpt-4o": "m1"}, fallbacks={"large": ["gpt-4o"]})

    async def story() -> None:
        async with house(tmp_path, routing=routing) as h:
            assert "modelId" not in (await h.route()).json()
            for name in ("gpt-4o", "large"):
                said = await h.route(modelId=name)
                assert (said.status_code, said.json()["result"], said.json()["modelId"]) == (
                    200,
                    "hello",
                    "m1",
                )
                found = (await h.http.post("/api/workers/find", json={"modelId": name})).json()
                assert (found["worker"]["workerId"], found["modelId"]) == ("r1-1", "m1")
            assert (await h.http.get("/api/workers?modelId=gpt-4o")).json()["total"] == 1
            assert (await h.http.get("/api/status")).json()["registry"]["aliases"] == {"gpt-4o": "m1"}
            assert (await h.route(modelId="unheard-of")).status_code == 404

    run(story())


class SmallRack(StagedRack):
    capacity = 1


def test_a_full_queue_is_429_and_a_rack_that_left_503_both_with_retry_after(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, SmallRack, routing=RoutingSettings(queue_limit=1)) as h:
            held = h.hold()
            await h.held()
            queued = asyncio.create_task(h.route())
            await eventually(lambda: h.service.admission.waiting == 1)
            full = await h.route()
            assert (full.status_code, full.json()["error"]["code"]) == (429, "ERR_CAPACITY_EXCEEDED")
            assert int(full.headers["retry-after"]) >= 1
            h.rack.go_on.set()
            assert ((await held).status_code, (await queued).status_code) == (200, 200)
            await h.rack.stop()
            await eventually(lambda: h.service.registry.get("r1-1") is None)
            gone = await h.route()
            assert (gone.status_code, gone.json()["error"]["code"]) == (503, "ERR_NO_WORKERS_AVAILABLE")
            assert int(gone.headers["retry-after"]) >= 1

    run(story())


def test_waiting_too_long_for_a_rack_is_503_with_retry_after(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, SmallRack, routing=RoutingSettings(queue_timeout=1)) as h:
            held = h.hold()
            await h.held()
            late = await h.route()
            assert (late.status_code, late.json()["error"]["code"]) == (503, "ERR_QUEUE_TIMEOUT")
            assert int(late.headers["retry-after"]) >= 1
            h.rack.go_on.set()
            assert (await held).status_code == 200

    run(story())


def test_what_nobody_meant_to_raise_is_told_by_its_id_and_logged_with_it(tmp_path: Path) -> None:
    class Broken(OrchestratorService):
        def load_balancing_stats(self) -> dict[str, Any]:
            raise ZeroDivisionError("a secret of the code")

    async def story() -> None:
        async with network() as net:
            service = service_of(net, tmp_path, kind=Broken)
            await service.start()
            with capture_logs() as logs:
                said = await get(service, "/api/load-balancer")
            await service.stop()
            assert (said.status_code, said.json()["error"]["code"]) == (500, "ERR_INTERNAL")
            assert "secret" not in said.text
            (event,) = [event for event in logs if event["log_level"] == "error"]
            assert event["event"] == "http.failed"
            assert event["request_id"] == said.headers["x-request-id"]
            assert isinstance(event["exc_info"], ZeroDivisionError)

    run(story())


# --- request ids


def test_a_sane_request_id_is_kept_and_another_replaced_on_every_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service, httpx.AsyncClient(base_url=service.http_endpoint) as http:

            async def ids_with(given: bytes) -> set[str]:
                headers = {b"x-request-id": given}
                answers = [
                    await http.get("/health", headers=headers),
                    await http.get("/unheard", headers=headers),
                    await http.get("/docs", headers=headers),
                    await http.post(ROUTE, headers=headers),
                    await http.post(ROUTE, content=SIMULATE, headers=headers),
                ]
                return {answer.headers["x-request-id"] for answer in answers}

            assert await ids_with(b"trace/42 (a)") == {"trace/42 (a)"}
            assert await ids_with(b"x" * 128) == {"x" * 128}
            for insane in (b"x" * 129, b"", "é".encode(), b"a\tb"):
                made = await ids_with(insane)
                assert len(made) == 5
                assert all(len(one) == 32 and int(one, 16) >= 0 for one in made)

    run(story())


# --- it is no model server


def test_who_searches_for_model_servers_finds_none_in_an_orchestrator_with_racks_or_without(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with running(tmp_path) as empty:
            url = empty.http_endpoint
            assert await look([url]) == [Nobody(url, "an orchestrator answers", stranger=True)]
        async with house(tmp_path) as h:
            url = h.service.http_endpoint
            assert (await h.http.get("/v1/models")).json()["data"]
            assert await look([url]) == [Nobody(url, "an orchestrator answers", stranger=True)]

    run(story())
