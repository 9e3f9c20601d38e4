"""What every link promises, told once and run on each implementation: ZeroMQ's and the fake of the tests.

The RPC layer relies on nothing that is not here. A run ends by closing everything and counting open
files, so that each story is also a test for leaks.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import zmq

from tests.fakes.aio import LoopName, Watch, closed, eventually, open_files, run
from tests.fakes.network import FakeNetwork
from tests.sim.loop import SimLoop
from tests.sim.network import SimNetwork, Wires
from wrk_base.errors import StartError
from wrk_base.rpc.link import Link, LinkOptions, Listener, Network
from wrk_base.rpc.zmq_link import ZmqNetwork

ANY_PORT = "tcp://127.0.0.1:0"
MAX_MESSAGE = 1_048_576


class Served(Watch):
    """A listener's owner that writes down what happens, and answers what `answer` says."""

    def __init__(self) -> None:
        super().__init__()
        self.listener: Listener
        self.messages: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes | None] = []
        self.story: list[str] = []
        self.doubts: list[bytes] = []
        self.malformed = 0
        self.answer: Callable[[bytes, bytes], None] = lambda routing_id, message: None

    def on_message(self, routing_id: bytes, message: bytes, chunk: memoryview | None = None) -> None:
        self.messages.append((routing_id, message))
        self.chunks.append(None if chunk is None else bytes(chunk))
        self.story.append("message")
        self.noted()
        self.answer(routing_id, message)

    def on_drained(self) -> None:
        self.story.append("drained")
        self.noted()

    def on_lost(self, routing_id: bytes) -> None:
        self.doubts.append(routing_id)
        self.noted()

    def on_doubt(self, routing_id: bytes) -> None:
        self.doubts.append(routing_id)
        self.noted()

    def on_crowded(self) -> None: ...

    def on_malformed(self) -> None:
        self.malformed += 1
        self.noted()

    @property
    def payloads(self) -> list[bytes]:
        return [message for _, message in self.messages]

    async def lost(self, routing_id: bytes) -> None:
        """Returns when a send to the peer says that it is gone."""
        await self.until(lambda: routing_id in self.doubts)
        await eventually(lambda: not self.listener.send(routing_id, b"are you there?"))


class Dialled(Watch):
    """A link's owner that writes down what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.link: Link
        self.ups = 0
        self.messages: list[bytes] = []
        self.chunks: list[bytes | None] = []
        self.drained = 0
        self.downs: list[str] = []
        self.react: Callable[[bytes], None] = lambda message: None

    def on_up(self) -> None:
        self.ups += 1
        self.noted()

    def on_message(self, message: bytes, chunk: memoryview | None = None) -> None:
        self.messages.append(message)
        self.chunks.append(None if chunk is None else bytes(chunk))
        self.noted()
        self.react(message)

    def on_drained(self) -> None:
        self.drained += 1
        self.noted()

    def on_down(self, reason: str) -> None:
        self.downs.append(reason)
        self.noted()


class Stage:
    """One network with whatever a story puts on it; `leave` closes all and checks that nothing is left."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.listeners: list[Listener] = []
        self.links: list[Link] = []

    def listen(self, endpoint: str = ANY_PORT) -> Served:
        served = Served()
        served.listener = self.network.listen(endpoint, served)
        self.listeners.append(served.listener)
        return served

    def dial(self, endpoint: str) -> Dialled:
        dialled = Dialled()
        dialled.link = self.network.dial(endpoint, dialled)
        self.links.append(dialled.link)
        return dialled

    async def connect(self, served: Served) -> Dialled:
        dialled = self.dial(served.listener.endpoint)
        await dialled.until(lambda: dialled.ups)
        return dialled

    async def introduce(self, served: Served) -> tuple[Dialled, bytes]:
        """A link that is up and has said a first message, and its routing id."""
        dialled = await self.connect(served)
        heard = len(served.messages)
        assert dialled.link.send(b"hello")
        await served.until(lambda: len(served.messages) > heard)
        return dialled, served.messages[heard][0]

    async def leave(self) -> None:
        for link in self.links:
            link.close()
        for listener in self.listeners:
            listener.close()
        await closed(self.network)


Story = Callable[[Stage], Coroutine[Any, Any, None]]
Play = Callable[[Story], None]


def _zmq(**options: int) -> Network:
    return ZmqNetwork(asyncio.get_running_loop(), LinkOptions(**options))


def _simulated() -> Network:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return SimNetwork(Wires(loop, random.Random(1)))


@asynccontextmanager
async def staged(make: Callable[[], Network]) -> AsyncIterator[Stage]:
    files = open_files()
    stage = Stage(make())
    try:
        yield stage
    finally:
        await stage.leave()
    await eventually(lambda: open_files() == files)


@pytest.fixture(
    params=[(FakeNetwork, "asyncio"), (_simulated, "simulated"), (_zmq, "asyncio"), (_zmq, "uvloop")],
    ids=["fake", "simulated", "zmq-asyncio", "zmq-uvloop"],
)
def play(request: pytest.FixtureRequest) -> Play:
    make, loop = request.param

    async def staging(story: Story) -> None:
        async with staged(make) as stage:
            await story(stage)

    def played(story: Story, loop: LoopName = loop) -> None:
        run(staging(story), loop)

    return played


# --- coming up


def test_a_dialled_link_comes_up_once_and_only_then_takes_messages(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled = stage.dial(served.listener.endpoint)
        assert dialled.link.send(b"too early") is False
        assert not dialled.ups, "nothing is told inside a call of the link's own"
        await dialled.until(lambda: dialled.ups)
        assert dialled.link.send(b"now") is True
        await served.until(lambda: served.messages)
        assert served.payloads == [b"now"]
        assert (dialled.ups, dialled.downs) == (1, [])

    play(story)


def test_a_port_of_zero_is_chosen_anew_each_time_and_named(play: Play) -> None:
    async def story(stage: Stage) -> None:
        first, second = stage.listen(), stage.listen()
        ports = [int(served.listener.endpoint.rpartition(":")[2]) for served in (first, second)]
        assert all(ports)
        assert ports[0] != ports[1]
        for served in (first, second):
            await stage.introduce(served)

    play(story)


def test_a_port_in_use_is_refused_with_its_name(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        with pytest.raises(StartError, match=served.listener.endpoint):
            stage.listen(served.listener.endpoint)
        await stage.introduce(served)  # who had it keeps it

    play(story)


def test_an_address_that_is_none_cannot_be_listened_on(play: Play) -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(StartError, match="nonsense"):
            stage.listen("nonsense")

    play(story)


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:x", ""])
def test_an_address_that_is_none_fails_like_any_dial(play: Play, endpoint: str) -> None:
    async def story(stage: Stage) -> None:
        dialled = stage.dial(endpoint)
        assert not dialled.downs, "nothing is told inside a call of the link's own"
        await dialled.until(lambda: dialled.downs)
        assert dialled.downs[0]
        assert (dialled.ups, len(dialled.downs), dialled.link.send(b"x")) == (0, 1, False)

    play(story)


def test_a_refused_dial_is_told_once_and_a_later_dial_is_a_new_chance(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        endpoint = served.listener.endpoint
        served.listener.close()
        await eventually(lambda: not _accepts(endpoint))
        dialled = stage.dial(endpoint)
        await dialled.until(lambda: dialled.downs)
        assert (dialled.ups, len(dialled.downs), dialled.link.send(b"x")) == (0, 1, False)

        again = await _listen_again(stage, endpoint)
        await stage.introduce(again)
        assert len(dialled.downs) == 1, "a link has one life"

    play(story)


def test_diagnose_tells_a_refused_port_from_an_open_one(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        assert "accepts connections" in await stage.network.diagnose(served.listener.endpoint)
        served.listener.close()
        await eventually(lambda: not _accepts(served.listener.endpoint))
        assert "refused" in await stage.network.diagnose(served.listener.endpoint)

    play(story)


def test_a_host_answers_while_its_process_listens(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        assert await stage.network.host_answers(served.listener.endpoint)
        served.listener.close()
        await eventually(lambda: not _accepts(served.listener.endpoint))
        for nobody in (served.listener.endpoint, "nonsense", "tcp://127.0.0.1:99999", ""):
            assert not await stage.network.host_answers(nobody)

    play(story)


def test_a_host_that_accepts_and_says_nothing_does_not_answer() -> None:
    """The kernel accepts for a process that was stopped, too."""

    async def story() -> None:
        async with staged(_zmq) as stage:
            with socket.create_server(("127.0.0.1", 0)) as stopped:
                assert not await stage.network.host_answers(f"tcp://127.0.0.1:{stopped.getsockname()[1]}")

    run(story())


# --- carrying messages


def test_messages_arrive_whole_and_in_order_each_way(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        served.answer = _echo(served)
        dialled = await stage.connect(served)
        sent = [b"%d" % number for number in range(20_000)]  # far more than one turn of the loop may read
        for message in sent:
            assert dialled.link.send(message)
        await dialled.until(lambda: len(dialled.messages) == len(sent))
        assert served.payloads == sent
        assert dialled.messages == sent

    play(story)


def test_messages_of_any_size_up_to_the_limit_arrive_whole(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        served.answer = _echo(served)
        dialled = await stage.connect(served)
        dice = random.Random(1)
        sent = [dice.randbytes(size) for size in (0, 1, 255, 256, 65_536, MAX_MESSAGE - 1, MAX_MESSAGE)]
        for message in sent:
            assert dialled.link.send(message)
        await dialled.until(lambda: len(dialled.messages) == len(sent))
        assert dialled.messages == sent

    play(story)


def test_a_chunk_arrives_with_its_message_and_keeps_its_place_each_way(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled, routing_id = await stage.introduce(served)
        dice = random.Random(1)
        chunks = [None, *(dice.randbytes(size) for size in (1, 65_535, 262_144, MAX_MESSAGE)), None, b""]
        for number, chunk in enumerate(chunks):
            beside = None if chunk is None else memoryview(chunk)
            assert dialled.link.send(b"%d" % number, beside)
            assert served.listener.send(routing_id, b"%d" % number, beside)
        messages = [b"%d" % number for number in range(len(chunks))]
        await served.until(lambda: len(served.messages) == 1 + len(chunks))
        await dialled.until(lambda: len(dialled.messages) == len(chunks))
        assert (served.payloads[1:], served.chunks[1:]) == (messages, chunks)
        assert (dialled.messages, dialled.chunks) == (messages, chunks)
        assert served.malformed == 0

    play(story)


def test_a_part_of_a_body_is_sent_as_it_is(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled = await stage.connect(served)
        body = memoryview(bytearray(random.Random(1).randbytes(1_000_000)))
        parts = [body[first : first + 300_000] for first in range(0, len(body), 300_000)]
        for part in parts:
            assert dialled.link.send(b"part", part)
        await served.until(lambda: len(served.messages) == len(parts))
        assert b"".join(chunk or b"" for chunk in served.chunks) == body

    play(story)


def test_a_chunk_above_the_limit_costs_the_connection_and_nothing_else(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        good, _ = await stage.introduce(served)
        bad, routing_id = await stage.introduce(served)
        bad.link.send(b"small", memoryview(bytes(MAX_MESSAGE + 1)))
        await bad.until(lambda: bad.downs)
        await served.lost(routing_id)
        assert good.link.send(b"still here")
        await served.until(lambda: served.payloads[-1:] == [b"still here"])
        assert b"small" not in served.payloads

    play(story)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_message_of_three_frames_is_malformed_and_the_next_one_is_intact(loop: LoopName) -> None:
    """No link sends one; what the fake carries has two parts by its form."""

    async def story() -> None:
        async with staged(_zmq) as stage:
            served = stage.listen()
            with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
                stranger.connect(served.listener.endpoint)
                for frames in ([b"a", b"b", b"c"], [b"whole"], [b"a", b"b", b"c", b"d"], [b"two", b"chunk"]):
                    stranger.send_multipart(frames)
                await served.until(lambda: len(served.messages) == 2)
            assert (served.payloads, served.chunks) == ([b"whole", b"two"], [None, b"chunk"])
            assert served.malformed == 2

    run(story(), loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_who_dialled_drops_a_message_of_three_frames_and_hears_the_next(loop: LoopName) -> None:
    async def story() -> None:
        async with staged(_zmq) as stage:
            with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
                router.setsockopt(zmq.LINGER, 0)
                router.bind(ANY_PORT)
                dialled = stage.dial(router.last_endpoint.decode())
                await dialled.until(lambda: dialled.ups)
                assert dialled.link.send(b"hello")
                await eventually(lambda: router.poll(0))
                routing_id, _ = router.recv_multipart()
                for frames in ([b"a", b"b", b"c"], [b"whole"], [b"two", b"chunk"]):
                    router.send_multipart([routing_id, *frames])
                await dialled.until(lambda: len(dialled.messages) == 2)
                assert (dialled.messages, dialled.chunks) == ([b"whole", b"two"], [None, b"chunk"])
                dialled.link.close()

    run(story(), loop)


MAX_FRAMES = 100


@pytest.mark.parametrize(
    ("frames", "costs"),
    [
        (MAX_FRAMES, False),
        (MAX_FRAMES + 1, True),
        (MAX_FRAMES + 5_000, True),
    ],
)
def test_a_message_of_more_frames_than_max_frames_costs_the_connection(frames: int, costs: bool) -> None:
    async def story() -> None:
        async with staged(lambda: _zmq(max_frames=MAX_FRAMES)) as stage:
            served = stage.listen()
            with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
                stranger.setsockopt(zmq.RECONNECT_IVL, -1)
                stranger.setsockopt(zmq.LINGER, 0)
                stranger.connect(served.listener.endpoint)
                stranger.send(b"hello")
                await served.until(lambda: served.messages)
                stranger.send_multipart([b""] * frames)
                await served.until(lambda: served.malformed == 1)
                if costs:
                    await served.until(lambda: served.doubts, within=3.0)
                else:
                    stranger.send(b"and on")
                    await served.until(lambda: b"and on" in served.payloads)
                    assert served.doubts == []

    run(story(), "uvloop")


def test_a_message_above_the_limit_costs_the_connection_and_nothing_else(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        good, _ = await stage.introduce(served)
        bad, routing_id = await stage.introduce(served)
        bad.link.send(b"x" * (MAX_MESSAGE + 1))
        await bad.until(lambda: bad.downs)
        await served.lost(routing_id)
        assert good.link.send(b"still here")
        await served.until(lambda: served.payloads[-1:] == [b"still here"])
        assert max(len(message) for message in served.payloads) < MAX_MESSAGE

    play(story)


def test_after_what_arrived_comes_the_word_that_it_was_all(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        served.answer = _echo(served)
        dialled = await stage.connect(served)
        for _ in range(10):
            dialled.link.send(b"x")
        await served.until(lambda: served.story.count("message") == 10 and served.story[-1] == "drained")
        await dialled.until(lambda: len(dialled.messages) == 10 and dialled.drained)

    play(story)


def test_each_peer_has_a_routing_id_of_its_own_and_gets_what_is_meant_for_it(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        met = [await stage.introduce(served) for _ in range(20)]
        assert len({routing_id for _, routing_id in met}) == 20
        for number, (_, routing_id) in enumerate(met):
            assert served.listener.send(routing_id, b"for %d" % number)
        for number, (dialled, _) in enumerate(met):
            await dialled.until(partial(_has_heard, dialled, 1))
            assert dialled.messages == [b"for %d" % number]

    play(story)


def test_a_routing_id_that_nobody_has_is_gone(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        assert served.listener.send(b"\0who?", b"x") is False
        served.listener.forget(b"\0who?")
        await stage.introduce(served)

    play(story)


def test_an_owner_that_raises_misses_a_message_and_the_link_lives_on(play: Play) -> None:
    async def story(stage: Stage) -> None:
        raised: list[BaseException] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
        served = stage.listen()
        served.answer = lambda routing_id, message: _burst(message)
        dialled, routing_id = await stage.introduce(served)
        dialled.react = _burst
        for message in (b"burst", b"1", b"burst", b"2", b"3"):
            assert dialled.link.send(message)
        await served.until(lambda: served.payloads[-1] == b"3" and served.story[-1] == "drained")
        for message in (b"burst", b"4"):
            assert served.listener.send(routing_id, message)
        await dialled.until(lambda: dialled.messages[-1:] == [b"4"])
        assert [type(error) for error in raised] == [ZeroDivisionError] * 3

    play(story)


# --- ending


def test_who_dialled_learns_that_the_listener_is_gone(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled, _ = await stage.introduce(served)
        served.listener.close()
        await dialled.until(lambda: dialled.downs)
        assert dialled.link.send(b"x") is False
        await _turns(20)
        assert len(dialled.downs) == 1

    play(story)


def test_the_listener_learns_that_who_dialled_is_gone(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        staying, kept = await stage.introduce(served)
        leaving, routing_id = await stage.introduce(served)
        leaving.link.close()
        await served.lost(routing_id)
        served.listener.forget(routing_id)
        assert leaving.downs == [], "who closes a link needs no word of it"
        assert served.listener.send(kept, b"you stay")
        await staying.until(lambda: staying.messages == [b"you stay"])

    play(story)


def test_who_is_expelled_loses_the_connection_and_both_sides_learn_of_it(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        staying, kept = await stage.introduce(served)
        bad, routing_id = await stage.introduce(served)
        served.listener.expel(routing_id)
        assert not bad.downs, "nothing is told inside a call of the listener's own"
        assert not served.doubts
        await bad.until(lambda: bad.downs)
        await served.lost(routing_id)
        assert bad.link.send(b"x") is False
        assert len(bad.downs) == 1
        assert served.listener.send(kept, b"you stay")
        await staying.until(lambda: staying.messages == [b"you stay"])
        assert staying.downs == []

    play(story)


def test_to_expel_somebody_who_is_gone_or_never_was_does_nothing(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        staying, kept = await stage.introduce(served)
        leaving, routing_id = await stage.introduce(served)
        leaving.link.close()
        await served.lost(routing_id)
        served.listener.forget(routing_id)
        for nobody in (routing_id, b"\0who?"):
            served.listener.expel(nobody)
        await stage.introduce(served)
        assert served.listener.send(kept, b"you stay")
        await staying.until(lambda: staying.messages == [b"you stay"])

    play(story)


def test_a_hundred_peers_that_leave_at_once_are_all_noticed(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        met = [await stage.introduce(served) for _ in range(100)]
        for dialled, _ in met:
            dialled.link.close()
        for _, routing_id in met:
            await served.lost(routing_id)

    play(story)


def test_closing_twice_is_closing_once_and_nothing_is_told_afterwards(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled, routing_id = await stage.introduce(served)
        served.listener.send(routing_id, b"in flight")
        dialled.link.send(b"in flight")
        heard = (len(served.messages), len(dialled.messages))
        for end in (dialled.link, dialled.link, served.listener, served.listener):
            end.close()
        assert dialled.link.send(b"x") is False
        assert served.listener.send(routing_id, b"x") is False
        await _turns(20)
        assert (len(served.messages), len(dialled.messages), dialled.downs) == (*heard, [])

    play(story)


def test_a_dial_that_is_given_up_tells_nothing(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled = stage.dial(served.listener.endpoint)
        dialled.link.close()
        await stage.introduce(served)
        assert (dialled.ups, dialled.downs, len(served.messages)) == (0, [], 1)

    play(story)


def test_a_link_may_be_closed_from_inside_its_own_callbacks(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled, routing_id = await stage.introduce(served)
        dialled.react = lambda message: dialled.link.close()
        for _ in range(5):
            served.listener.send(routing_id, b"x")
        await served.lost(routing_id)
        assert (dialled.messages, dialled.downs) == ([b"x"], [])

    play(story)


def test_a_listener_may_be_closed_from_inside_its_own_callbacks(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        dialled = await stage.connect(served)
        served.answer = lambda routing_id, message: served.listener.close()
        for _ in range(5):
            dialled.link.send(b"x")
        await dialled.until(lambda: dialled.downs)
        assert served.payloads == [b"x"]

    play(story)


def test_whoever_takes_the_port_over_gets_nothing_that_was_meant_for_the_one_before(play: Play) -> None:
    async def story(stage: Stage) -> None:
        before = stage.listen()
        endpoint = before.listener.endpoint
        dialled, _ = await stage.introduce(before)
        before.listener.close()
        for _ in range(1000):
            dialled.link.send(b"for the one before")  # some of it before the loss shows, some after
        after = await _listen_again(stage, endpoint)
        await dialled.until(lambda: dialled.downs)
        await stage.introduce(after)
        assert after.payloads == [b"hello"]

    play(story)


# --- under load


def test_no_send_is_lost_and_no_wake_up_is_missed_whatever_the_rhythm(play: Play) -> None:
    """A missed look at an edge-triggered fd shows as a wait that never ends."""
    senders, each = 8, 9_000

    async def story(stage: Stage) -> None:
        served = stage.listen()
        served.answer = _echo(served)
        shared = [await stage.connect(served) for _ in range(20)]
        everyone = [*shared]

        async def sender(number: int) -> None:
            """Bursts, turns given away, and waits until all that it sent on a link of its own came back."""
            dice, sent, mine = random.Random(number), 0, await stage.connect(served)
            everyone.append(mine)
            for _ in range(each):
                if dice.random() < 0.8:
                    assert dice.choice(shared).link.send(b"shared")
                else:
                    assert mine.link.send(b"mine")
                    sent += 1
                chance = dice.random()
                if chance < 0.05:
                    await asyncio.sleep(0)
                elif chance < 0.06:
                    await mine.until(partial(_has_heard, mine, sent))
            await mine.until(partial(_has_heard, mine, sent))

        await asyncio.gather(*[sender(number) for number in range(senders)])
        await eventually(lambda: sum(len(one.messages) for one in everyone) == senders * each)
        assert len(served.messages) == senders * each
        assert stage.network.rescued == 0

    play(story)


def test_five_hundred_dials_leave_nothing_behind(play: Play) -> None:
    async def story(stage: Stage) -> None:
        served = stage.listen()
        await stage.introduce(served)
        files = open_files()
        for number in range(500):
            dialled = stage.dial(served.listener.endpoint)
            if number % 3:
                await dialled.until(partial(_is_up, dialled))
            if number % 3 == 2:
                dialled.link.send(b"and away")
            dialled.link.close()
        await eventually(lambda: open_files() <= files)

    play(story)


# --- helpers


def _echo(served: Served) -> Callable[[bytes, bytes], None]:
    def answer(routing_id: bytes, message: bytes) -> None:
        assert served.listener.send(routing_id, message)

    return answer


def _has_heard(dialled: Dialled, count: int) -> bool:
    return len(dialled.messages) >= count


def _is_up(dialled: Dialled) -> bool:
    return dialled.ups > 0


def _burst(message: bytes) -> None:
    if message == b"burst":
        _ = 1 / 0


async def _turns(number: int) -> None:
    """Some turns of the loop, in which what must not happen has its chance."""
    for _ in range(number):
        await asyncio.sleep(0.001)


def _accepts(endpoint: str) -> bool:
    """Whether something listens; ZeroMQ closes a bound port some moments after `close`."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def _listen_again(stage: Stage, endpoint: str) -> Served:
    for _ in range(1000):
        try:
            return stage.listen(endpoint)
        except StartError:
            await asyncio.sleep(0.001)
    raise AssertionError(f"{endpoint} never became free")
