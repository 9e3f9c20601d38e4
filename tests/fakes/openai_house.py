"""A fake upstream, the rack in front of it, and somebody who asks that rack: in one loop, the HTTP real.

    async with house(models=["m1"]) as h:
        answer = await h.chat({"model": "m1", "messages": [...]})
        items = await h.items("chat", {...})

RPC runs over a network in memory. What the rack says of itself is as an orchestrator would read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from racks.openai import OpenAIRack
from racks.openai_settings import OpenAISettings
from tests.fakes.aio import eventually
from tests.fakes.network import FakeNetwork
from tests.fakes.rpc import RecordedLog, caller_on
from tests.fakes.upstream import FakeUpstream
from wrk_base import errors
from wrk_base.config import Settings
from wrk_base.discovery import combine
from wrk_base.rpc import wire
from wrk_base.rpc.call import Reply
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.line import PeerLimits
from wrk_base.rpc.peers import Peers
from wrk_base.rpc.streams import Terms, open_stream
from wrk_base.worker import WorkerContext

SECONDS = 20.0  # a caller's deadline; no story takes nearly as long
Body = Mapping[str, Any] | bytes


class Items:
    """A stream as it came: the packed items, and how it ended. `content_type` is that of all items."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.content_type = -1
        self.error: errors.WrkError | None = None
        self.final: Any = None

    @property
    def decoded(self) -> list[Any]:
        return [msgspec.json.decode(item) for item in self.items]

    @property
    def failure(self) -> errors.WrkError:
        assert self.error is not None, "the stream ended well"
        return self.error


class OpenAIHouse:
    """A rack, its upstream, and its caller."""

    def __init__(self, rack: OpenAIRack, upstream: FakeUpstream, peers: Peers, log: RecordedLog) -> None:
        self.rack, self.upstream, self.peers, self.log = rack, upstream, peers, log

    def models(self) -> list[str]:
        return list(self.rack.describe().models)

    async def offers(self, *models: str) -> None:
        """Returns once the rack offers these models and no others."""
        await eventually(lambda: self.models() == list(models))

    async def reply(
        self, task: str, body: Body, *, model: str = "m1", timeout: float = SECONDS, **options: Any
    ) -> Reply:
        """The packed answer; raises what the rack raised."""
        method, _, head, kind, payload = _parts(task, body, model, options)
        peer, deadline = self.peers.get(self.rack.endpoint), asyncio.get_running_loop().time() + timeout
        return await peer.call(method, payload, deadline=deadline, head=head, content_type=kind)

    async def ask(self, task: str, body: Body, **facts: Any) -> Any:
        """The decoded answer."""
        reply = await self.reply(task, body, **facts)
        return wire.unpack_body(reply.payload, reply.content_type)

    async def fails(self, task: str = "chat", body: Body | None = None, **facts: Any) -> errors.WrkError:
        """The error that it ends in."""
        try:
            answer = await self.ask(task, HELLO if body is None else body, **facts)
        except errors.WrkError as error:
            return error
        raise AssertionError(f"it was answered: {answer}")

    async def stream(
        self,
        task: str,
        body: Body,
        *,
        model: str = "m1",
        timeout: float = SECONDS,
        limits: PeerLimits | None = None,
        leave_after: int | None = None,
        **options: Any,
    ) -> Items:
        """All items, or the first `leave_after` of them, after which the reader leaves."""
        terms = Terms(timeout, SECONDS, None)
        peer = self.peers.get(self.rack.endpoint)
        inbox = open_stream(peer, limits or PeerLimits(), _parts(task, body, model, options), terms)
        found = Items()
        try:
            while leave_after is None or len(found.items) < leave_after:
                if not inbox.payloads:
                    if inbox.over:
                        break
                    await inbox.more()
                    continue
                payload = inbox.payloads.popleft()
                found.items.append(payload)
                grant = inbox.window.consumed(len(payload))
                if grant is not None:
                    peer.grant(inbox, *grant)
        finally:
            inbox.leave()
        found.content_type, found.error = inbox.content_type, inbox.error
        if inbox.result is not None:
            found.final = wire.unpack_body(inbox.result[2], inbox.result[1])
        return found


HELLO: dict[str, Any] = {"model": "m1", "messages": [{"role": "user", "content": "hello"}]}
HELLO_STREAM = {**HELLO, "stream": True}


def _parts(task: str, body: Body, model: str, options: dict[str, Any]) -> tuple[str, int, bytes, int, bytes]:
    head = wire.pack_head({"modelId": model, "options": {"task": task, **options}})
    payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return "runInference", 0, head, wire.JSON, payload


def make_rack(
    network: FakeNetwork,
    url: str,
    *,
    settings: Settings | None = None,
    environ: Mapping[str, str] | None = None,
    log: Any = None,
    **section: Any,
) -> OpenAIRack:
    """One that looks at its upstream ten times as often as by default."""
    log = RecordedLog() if log is None else log
    own = {"refresh_interval": 500, "poll_timeout": 500, **section}
    return OpenAIRack(
        WorkerContext(
            settings=settings or Settings(),
            section=OpenAISettings(upstream=url, **own),
            identity=Identity("o1-1", epoch=1, role="rack"),
            wtype="wrk-rack-openai",
            rack="o1",
            state_dir=Path("unused"),
            host="127.0.0.1",
            network=network,
            discovery=combine(log=log),
            rng=Random(0),
            log=log,
            environ=environ or {},
        )
    )


@asynccontextmanager
async def house(
    upstream: FakeUpstream | None = None, *, models: list[str] | None = None, **facts: Any
) -> AsyncIterator[OpenAIHouse]:
    """`models` are the upstream's, `wanted` those to offer; `facts` are other settings of the rack's section,
    or `settings` and `environ`."""
    log: Any = RecordedLog()
    network = FakeNetwork()
    wanted = facts.pop("wanted", [])
    async with upstream or FakeUpstream(models) as server:
        rack = make_rack(network, facts.pop("url", server.url), log=log, models=wanted, **facts)
        peers = caller_on(network)
        await rack.start()
        try:
            yield OpenAIHouse(rack, server, peers, log)
        finally:
            peers.close()
            await rack.stop()
            assert rack.held.used == 0, "bytes of answers are counted that are not there"
