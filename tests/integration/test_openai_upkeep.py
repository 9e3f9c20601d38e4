"""The rack beside its upstream over time: models that come and go, outages, cancels, connections, secrets."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from tests.fakes.aio import LoopName, eventually, run
from tests.fakes.certificates import certificate_for
from tests.fakes.network import FakeNetwork
from tests.fakes.openai_house import HELLO, HELLO_STREAM, OpenAIHouse, house, make_rack
from tests.fakes.rpc import caller_on
from tests.fakes.upstream import FakeUpstream, Visitor
from wrk_base import contract, errors
from wrk_base.config import Settings
from wrk_base.discovery import combine
from wrk_base.discovery.static import StaticDiscovery
from wrk_base.rpc.identity import Identity
from wrk_base.worker import WorkerContext
from wrk_orchestrator.orchestrator import OrchestratorWorker

KEY = "sk-the-secret-of-this-test"
RARELY = 3_600_000  # milliseconds


# --- models


def test_models_come_and_go_with_the_upstreams() -> None:
    async def story() -> None:
        async with house(models=["a"], refresh_interval=100) as h:
            assert h.models() == ["a"]
            h.upstream.models = ["b", "c"]
            await h.offers("b", "c")
            h.upstream.models = []
            await h.offers()
            assert h.rack.health()["healthy"]

    run(story())


def test_only_wanted_models_are_offered() -> None:
    async def story() -> None:
        async with house(models=["llama3:8b", "qwen"], wanted=["llama*"]) as h:
            assert h.models() == ["llama3:8b"]

    run(story())


def facts(h: OpenAIHouse, model: str) -> contract.ModelFacts:
    return h.rack.describe().facts[model]


def test_an_ollama_tells_what_its_models_can() -> None:
    async def story() -> None:
        upstream = FakeUpstream(["gemma"])
        upstream.pages["/api/show"] = lambda asked: {
            "capabilities": ["completion", "vision"],
            "model_info": {"general.architecture": asked["model"], "gemma.context_length": 8192},
        }
        async with house(upstream) as h:
            assert facts(h, "gemma") == contract.ModelFacts(["chat", "completion", "vision"], 8192)

    run(story())


def test_a_vllm_an_lm_studio_and_a_llama_cpp_tell_theirs() -> None:
    async def story() -> None:
        vllm = FakeUpstream(["m1"])
        vllm.entries["m1"] = {"max_model_len": 32_768}
        async with house(vllm) as h:
            assert facts(h, "m1") == contract.ModelFacts([], 32_768)
            assert h.rack.describe().max_concurrent == 32
        studio = FakeUpstream(["m1"])
        row = {"id": "m1", "type": "llm", "capabilities": ["tool_use"], "max_context_length": 4096}
        studio.pages["/api/v0/models"] = {"data": [row]}
        async with house(studio) as h:
            assert facts(h, "m1") == contract.ModelFacts(["chat", "completion", "tools"], 4096)
        llama = FakeUpstream(["m1"])
        llama.pages["/props"] = {"default_generation_settings": {"n_ctx": 2048}, "total_slots": 4}
        async with house(llama) as h:
            assert facts(h, "m1").context_length == 2048
            assert h.rack.describe().max_concurrent == 4
        async with house(llama, max_concurrent=7) as h:
            assert h.rack.describe().max_concurrent == 7

    run(story())


def test_what_a_server_has_not_got_is_asked_once() -> None:
    async def story() -> None:
        async with house(refresh_interval=100) as h:
            h.upstream.models = ["m1", "m2", "m3"]
            await h.offers("m1", "m2", "m3")
            pages = [asked.path for asked in h.upstream.asked if not asked.path.startswith("/v1/")]
            assert sorted(pages) == ["/api/show", "/api/v0/models", "/props"]

    run(story())


# --- outages


def test_a_start_without_an_upstream_is_no_error() -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        async with house(upstream) as h:
            await upstream.down()
            await h.offers()
            late = make_rack(FakeNetwork(), upstream.url)
            await late.start()
            assert late.describe().models == []
            assert late.health()["healthy"] is False
            assert "nobody listens there" in late.health()["reason"]
            await upstream.up()
            await eventually(lambda: late.describe().models == ["m1"])
            assert late.health()["healthy"] is True
            await late.stop()

    run(story())


def test_a_request_that_cannot_connect_tells_of_the_outage_before_the_next_look() -> None:
    async def story() -> None:
        async with house(refresh_interval=RARELY) as h:
            await h.upstream.down()
            error = await h.fails()
            assert isinstance(error, errors.Unavailable)
            assert error.not_started
            await h.offers()
            gone = await h.fails()
            assert isinstance(gone, errors.Unavailable), "its model is known, and away"
            assert gone.not_started
            assert isinstance(await h.fails(model="m9"), errors.ModelNotAvailable)
            await h.upstream.up()
            await h.offers("m1")
            assert (await h.ask("chat", HELLO))["object"] == "chat.completion"

    run(story())


async def answers_nonsense(visitor: Visitor) -> None:
    await visitor.whole(b"nonsense")


async def answers_500(visitor: Visitor) -> None:
    await visitor.whole(b"{}", "500 Oops")


async def hangs(visitor: Visitor) -> None:
    await visitor.hang()


@pytest.mark.parametrize(
    ("fault", "why"),
    [(answers_nonsense, "list of models"), (answers_500, "answers 500"), (hangs, "no answer within 0.1 s")],
)
def test_bad_lists_count_only_in_a_row(fault: Any, why: str) -> None:
    async def story() -> None:
        async with house(refresh_interval=RARELY, poll_timeout=100, poll_failures=2) as h:
            look = h.rack._watch.look
            h.upstream.models_fault = fault
            await look()
            assert h.rack.health()["healthy"]
            h.upstream.models_fault = None
            await look()
            h.upstream.models_fault = fault
            await look()
            assert h.models() == ["m1"]
            await look()
            assert h.models() == []
            assert why in h.rack.health()["reason"]
            h.upstream.models_fault = None
            await look()
            assert (h.models(), h.rack.health()["healthy"]) == (["m1"], True)

    run(story())


def test_a_busy_upstream_is_not_a_dead_one() -> None:
    """It sends tokens all the time, and is too busy to list its models."""

    async def story() -> None:
        async with house(refresh_interval=RARELY, poll_timeout=100, poll_failures=1) as h:

            async def streams_slowly(visitor: Visitor) -> None:
                await visitor.begin()
                while True:
                    await visitor.chunk(b"data: {}\n\n")
                    await asyncio.sleep(0.01)

            h.upstream.fault, h.upstream.models_fault = streams_slowly, hangs
            reading = asyncio.create_task(h.stream("chat", HELLO_STREAM))
            await eventually(lambda: h.rack.running == 1)
            await h.rack._watch.look()
            assert h.rack.health()["healthy"]
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await eventually(lambda: h.rack.running == 0)
            await h.rack._watch.look()
            assert not h.rack.health()["healthy"]

    run(story())


def test_a_wrong_key_is_a_reason_and_not_shown() -> None:
    async def story() -> None:
        async with house(FakeUpstream(key="another")) as h:
            assert h.models() == []
            assert "401" in h.rack.health()["reason"]
            assert "apiKeyEnv" in h.rack.health()["reason"]

    run(story())


def test_an_orchestrator_routes_around_an_outage_and_back_within_five_seconds(tmp_path: Path) -> None:
    async def story() -> None:
        network, log = FakeNetwork(), structlog.get_logger()
        upstream = FakeUpstream()
        await upstream.up()
        orchestrator = OrchestratorWorker(
            WorkerContext(
                settings=Settings(health_check_interval=300),
                section=None,
                identity=Identity("orc", epoch=1, role="orchestrator"),
                wtype="wrk-orchestrator",
                rack="main",
                state_dir=tmp_path,
                host="127.0.0.1",
                network=network,
                discovery=combine(log=log),
                rng=Random(1),
                log=log,
            )
        )
        await orchestrator.start()
        rack = make_rack(network, upstream.url)
        rack.context.discovery = combine(StaticDiscovery([orchestrator.endpoint]), log=log)
        await rack.start()
        caller = caller_on(network)

        def shown() -> dict[str, Any]:
            (worker,) = orchestrator.list_workers({})["workers"] or ({"state": "", "cause": ""},)
            return dict(worker)

        async def infer() -> Any:
            body = {"modelId": "m1", "inputData": "hello"}
            return await caller.request(orchestrator.endpoint, "routeInferenceRequest", body, timeout=10.0)

        async def answers() -> None:
            while True:
                try:
                    assert (await infer())["result"]["text"]
                    return
                except errors.NoWorkersAvailable:
                    await asyncio.sleep(0.01)

        await answers()
        for _ in range(3):
            await upstream.down()
            await eventually(lambda: shown()["state"] == "unhealthy")
            assert "cannot be reached" in shown()["cause"]
            with pytest.raises(errors.NoWorkersAvailable):
                await infer()
            await upstream.up()
            async with asyncio.timeout(5.0):
                await answers()
        assert shown()["strikes"] == 0
        caller.close()
        await rack.stop()
        await orchestrator.stop()
        await upstream.down()

    run(story())


# --- cancels and connections


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cancel_closes_the_upstreams_connection(streamed: bool) -> None:
    async def story() -> None:
        async with house(refresh_interval=RARELY) as h:
            await eventually(lambda: h.upstream.open <= 1)
            h.upstream.pause()
            asking = h.stream("chat", HELLO_STREAM) if streamed else h.ask("chat", HELLO)
            task = asyncio.create_task(asking)
            await eventually(lambda: len(h.upstream.inferences) == 1)
            closed = h.upstream.closed
            task.cancel()
            await h.upstream.until(lambda: h.upstream.closed > closed, within=1.0)
            await eventually(lambda: h.rack.running == 0)
            h.upstream.go_on()
            assert (await h.ask("chat", HELLO))["object"] == "chat.completion"

    run(story())


def test_connections_are_used_again() -> None:
    async def story() -> None:
        async with house(refresh_interval=RARELY) as h:
            for _ in range(10):
                await h.ask("chat", HELLO)
                await h.stream("chat", HELLO_STREAM)
            assert h.upstream.connections == 1
            await asyncio.gather(*(h.ask("chat", HELLO) for _ in range(5)))
            assert h.upstream.connections <= 5

    run(story())


def test_a_large_answer_and_a_large_question_pass_through() -> None:
    async def story() -> None:
        async with house() as h:
            text = "x" * 3_000_000
            body = {"model": "m1", "input": [text]}
            answer = await h.ask("embedding", body)
            assert answer["data"][0]["embedding"][0] == 3_000_000
            assert len(h.upstream.inferences[-1].body) > 3_000_000
            large = {"model": "m1", "messages": [{"role": "user", "content": text}]}
            reply = await h.reply("chat", large)
            assert len(reply.payload) > 9_000_000

    run(story())


def test_no_more_than_the_capacity_reach_the_upstream() -> None:
    async def story() -> None:
        async with house(max_concurrent=2) as h:
            h.upstream.pause()
            asked = [asyncio.create_task(h.ask("chat", HELLO)) for _ in range(2)]
            await eventually(lambda: len(h.upstream.inferences) == 2)
            assert isinstance(await h.fails(), errors.CapacityExceeded)
            h.upstream.go_on()
            await asyncio.gather(*asked)
            assert len(h.upstream.inferences) == 2

    run(story())


def test_a_stop_cuts_what_is_open() -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        async with house(upstream) as h:
            await h.ask("chat", HELLO)
            await h.rack.stop()
            await eventually(lambda: upstream.open == 0)

    run(story())


# --- secrets


def test_the_key_is_sent_and_told_to_nobody_else() -> None:
    async def story() -> None:
        environ = {"MY_KEY": KEY}
        async with house(FakeUpstream(key=KEY), environ=environ, api_key_env="MY_KEY") as h:
            await h.ask("chat", HELLO)
            assert h.upstream.inferences[-1].headers["authorization"] == f"Bearer {KEY}"

            async def repeats_it(visitor: Visitor) -> None:
                await visitor.whole(b'{"error":{"message":"wrong key: %b"}}' % KEY.encode(), "400 Bad")

            h.upstream.fault = repeats_it
            error = await h.fails()
            assert "wrong key: ***" in error.data["body"]
            told = [
                repr(h.log.events),
                repr(error),
                repr(error.data),
                repr(h.rack.stats()),
                repr(h.rack.info()),
            ]
            assert [text for text in told if KEY in text] == []

    run(story())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_certificate_that_nobody_vouches_for_gets_no_request_and_no_key(
    loop: LoopName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate_for("127.0.0.1", tmp_path)

    def server() -> FakeUpstream:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(files["tls_certificate"], files["tls_key"])
        return FakeUpstream(tls=tls)

    async def story() -> None:
        facts: dict[str, Any] = {"environ": {"MY_KEY": KEY}, "api_key_env": "MY_KEY"}
        async with house(server(), **facts) as h:
            assert "its certificate is not trusted" in h.rack.health()["reason"]
            assert h.upstream.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", files["tls_certificate"])
        async with house(server(), **facts) as h:
            assert (await h.ask("chat", HELLO))["object"] == "chat.completion"
            assert len((await h.stream("chat", HELLO_STREAM)).items) == 4

    run(story(), loop)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def story() -> None:
        async with house() as h:
            assert (await h.ask("chat", HELLO))["object"] == "chat.completion"

    run(story())
