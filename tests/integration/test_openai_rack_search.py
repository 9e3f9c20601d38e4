"""The rack that was told of no server: it goes before the only one that runs, or does not start."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from racks.openai import OpenAIRack
from tests.fakes import model_server as shapes
from tests.fakes.aio import run
from tests.fakes.model_server import model_server
from tests.fakes.network import FakeNetwork
from tests.fakes.openai_house import make_rack
from tests.fakes.upstream import FakeUpstream
from wrk_base.config import ModelServerSettings, Settings
from wrk_base.errors import StartError


def rack_without_upstream(
    *addresses: int | str, environ: dict[str, str] | None = None, key: str = ""
) -> OpenAIRack:
    settings = Settings(model_servers=ModelServerSettings(addresses=list(addresses)))
    return make_rack(FakeNetwork(), "", settings=settings, environ=environ, api_key_env=key)


async def models_of(rack: OpenAIRack) -> list[str]:
    """What it offers once it has started, which may raise."""
    try:
        await rack.start()
        return list(rack.describe().models)
    finally:
        await rack.stop()


def refusal(rack_of: list[int | str], **facts: str) -> str:
    async def story() -> None:
        environ = {"THE_KEY": "secret"}
        await models_of(rack_without_upstream(*rack_of, environ=environ, **facts))

    with pytest.raises(StartError) as caught:
        run(story())
    return str(caught.value)


def test_the_only_server_that_runs_is_served() -> None:
    async def story() -> None:
        async with FakeUpstream(["m1", "m2"]) as upstream:
            with model_server(shapes.WEB_SITE) as site:
                assert await models_of(rack_without_upstream(site.port, upstream.port)) == ["m1", "m2"]

    run(story())


def test_ollama_is_found_where_its_variable_says() -> None:
    async def story() -> None:
        async with FakeUpstream(["m1"]) as ollama:
            with model_server(shapes.WEB_SITE) as site:
                environ = {"OLLAMA_HOST": f"0.0.0.0:{ollama.port}"}
                assert await models_of(rack_without_upstream(site.port, environ=environ)) == ["m1"]

    run(story())


def test_of_several_none_is_served() -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(model_server(shape)).url for shape in (shapes.OLLAMA, shapes.VLLM)]
        said = refusal([*urls])
    assert said.startswith(
        f"several model servers run here: Ollama at {urls[0]}, vLLM at {urls[1]}; choose one"
    )


def test_without_any_it_does_not_start() -> None:
    with model_server(shapes.WANTS_KEY) as server:
        said = refusal([server.url])
    assert f"({server.url}: answers with status 401: it may want a key); start one, or name one" in said


def test_a_key_is_for_the_server_that_is_named_with_it_and_for_no_other() -> None:
    with model_server(shapes.VLLM) as server:
        assert "Name the server by --upstream" in refusal([server.url], key="THE_KEY")
        assert server.asked == []
