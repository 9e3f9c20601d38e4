"""A search for model servers, over real sockets: it finds what is there, and nobody there can hurt it."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from tests.fakes import model_server as shapes
from tests.fakes.aio import PATIENCE, run
from tests.fakes.model_server import Shape, model_server, unused_port
from wrk_base.model_servers import search
from wrk_base.model_servers.get import MAX_BYTES
from wrk_base.model_servers.recognition import LLAMA_CPP, LM_STUDIO, OLLAMA, OTHER, VLLM, ModelServer, Nobody
from wrk_base.model_servers.search import Finding, look

LISTED = json.dumps(shapes.models("m", owner="vllm")).encode()


def found(url: str) -> Finding:
    (finding,) = run(look([url]))
    return finding


@asynccontextmanager
async def speaker(said: bytes, *, then: bytes = b"", hang_up: bool = True) -> AsyncIterator[str]:
    """The URL of somebody who answers a request with `said`, and then with `then` again and again."""
    gone = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            while then:
                writer.write(then)
                await writer.drain()
            if not hang_up:
                await reader.read()  # until the other side does
        except ConnectionError:
            pass
        finally:
            writer.close()
            gone.set()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await gone.wait()


def told_by(
    said: bytes, *, seconds: float = search.SECONDS, then: bytes = b"", hang_up: bool = True
) -> Finding:
    async def ask() -> Finding:
        async with speaker(said, then=then, hang_up=hang_up) as url:
            (finding,) = await look([url], seconds)
            return finding

    return run(ask())


def response(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"\r\n".join((b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers))
    return head + b"\r\n\r\n" + body


# --- finding


def test_all_are_asked_at_once_and_told_in_the_order_of_their_addresses() -> None:
    kinds = (OLLAMA, LM_STUDIO, VLLM, LLAMA_CPP, OTHER)
    running = (shapes.OLLAMA, shapes.LM_STUDIO, shapes.VLLM, shapes.LLAMA_CPP, shapes.OTHER)
    with ExitStack() as stack:
        urls = [stack.enter_context(model_server(shape)).url for shape in running]
        nobody = f"http://127.0.0.1:{stack.enter_context(unused_port())}"
        findings = run(look([*urls, nobody]))
    assert [f.kind for f in findings if isinstance(f, ModelServer)] == list(kinds)
    assert [f.url for f in findings] == [*urls, nobody]
    assert findings[-1] == Nobody(nobody, "nothing answers", stranger=False)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [(shapes.OLLAMA_WITHOUT_MODELS, OLLAMA), (shapes.LLAMA_CPP_ROUTER, LLAMA_CPP)],
)
def test_a_server_whose_models_do_not_tell_its_kind_is_asked_a_second_question(
    shape: Shape, kind: object
) -> None:
    with model_server(shape) as server:
        assert found(server.url) == ModelServer(server.url, kind, ())


def test_a_server_that_is_known_by_its_models_is_asked_once() -> None:
    with model_server(shapes.VLLM) as server:
        found(server.url)
        assert server.asked == ["/v1/models"]


def test_what_lies_below_a_path_is_asked_there() -> None:
    with model_server(Shape({"/llm/v1/models": shapes.models("m", owner="vllm")})) as server:
        assert found(f"{server.url}/llm") == ModelServer(f"{server.url}/llm", VLLM, ("m",))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (shapes.WEB_SITE, "answers with something else"),
        (shapes.WANTS_KEY, "answers with status 401: it may want a key"),
        (shapes.EMPTY_ORCHESTRATOR, "an orchestrator answers"),
    ],
)
def test_whoever_else_is_there_is_told_with_the_reason(shape: Shape, reason: str) -> None:
    with model_server(shape) as server:
        assert found(server.url) == Nobody(server.url, reason, stranger=True)


# --- strangers


def test_who_never_answers_holds_up_nobody_and_costs_two_seconds_at_most() -> None:
    async def ask() -> list[Finding]:
        with model_server(shapes.VLLM) as server:
            async with speaker(b"", hang_up=False) as silent:
                return await look([silent, server.url], seconds=0.5)

    silent, vllm = run(ask())
    assert silent == Nobody(silent.url, "no answer within 0.5 s", stranger=False)
    assert isinstance(vllm, ModelServer)
    assert search.SECONDS == 2


def test_who_stops_in_the_middle_is_given_up_as_well() -> None:
    stuck = told_by(b"HTTP/1.1 200 OK\r\nx: ", seconds=0.2, hang_up=False)
    assert stuck == Nobody(stuck.url, "no answer within 0.2 s", stranger=False)


def test_an_endless_answer_is_cut_off() -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    endless = told_by(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", then=chunk, seconds=PATIENCE)
    assert isinstance(endless, Nobody)
    assert endless.reason == "answers with something else"


def test_an_endless_head_is_cut_off() -> None:
    endless = told_by(b"HTTP/1.1 200 OK\r\n", then=b"x: " + b"y" * 1000 + b"\r\n", seconds=PATIENCE)
    assert isinstance(endless, Nobody)
    assert endless.reason == "answers with something else"


@pytest.mark.parametrize("size", [MAX_BYTES, MAX_BYTES + 1])
def test_an_answer_may_be_as_long_as_a_long_list_of_models_and_no_longer(size: int) -> None:
    head = len(response(bytes(size))) - size
    finding = told_by(response(LISTED + b" " * (size - head - len(LISTED))))
    assert isinstance(finding, ModelServer) is (size == MAX_BYTES)


def test_an_answer_may_come_in_pieces_or_end_with_its_connection() -> None:
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (LISTED[:9], LISTED[9:], b""))
    assert isinstance(told_by(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + pieces), ModelServer)
    assert isinstance(told_by(b"HTTP/1.0 200 OK\r\n\r\n" + LISTED), ModelServer)


def test_an_answer_that_is_not_whole_is_none() -> None:
    cut = response(LISTED).replace(
        b"content-length: %d" % len(LISTED), b"content-length: %d" % (len(LISTED) + 1)
    )
    assert isinstance(told_by(cut), Nobody)
    assert isinstance(told_by(b"HTTP/1.1 200 OK\r\n"), Nobody)


def test_what_was_packed_unasked_is_not_unpacked() -> None:
    packed = told_by(response(gzip.compress(LISTED), b"content-encoding: gzip"))
    assert isinstance(packed, Nobody)


def test_nobody_is_sent_on_elsewhere() -> None:
    with model_server(shapes.VLLM) as server:
        moved = told_by(response(b"", b"location: %s/v1/models" % server.url.encode(), status=b"307 Moved"))
        assert (moved.reason, server.asked) == ("answers with status 307", [])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
        bytes(range(256)) * 4,
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nmore",
    ],
)
def test_who_speaks_no_http_is_something_else(said: bytes) -> None:
    assert isinstance(told_by(said), Nobody)


@pytest.mark.parametrize(
    "url", ["http://gpu lan:1", "http://[::zz]:1", "http://a..b:1", "http://" + "x" * 300]
)
def test_an_address_that_is_none_is_nobody_s(url: str) -> None:
    assert found(url) == Nobody(url, "nothing answers", stranger=False)


def test_no_proxy_of_the_environment_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    with model_server(shapes.VLLM) as server, unused_port() as nowhere:
        monkeypatch.setitem(os.environ, "HTTP_PROXY", f"http://127.0.0.1:{nowhere}")
        monkeypatch.setitem(os.environ, "ALL_PROXY", f"http://127.0.0.1:{nowhere}")
        assert isinstance(found(server.url), ModelServer)
