"""What strangers do to the RPC port, over real sockets: it is dropped or refused and counted, the loop
lives, and a good peer beside them is answered every time and never loses its link."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
import zmq

from tests.fakes.aio import closed, eventually, open_files, run
from tests.fakes.rpc import CLIENT, EPOCH, Happenings, House, ask, request
from wrk_base.rpc import wire
from wrk_base.rpc.link import LinkOptions
from wrk_base.rpc.server import Server
from wrk_base.rpc.zmq_link import ZmqNetwork

HANDSHAKE_MS = 300
MAX_MESSAGE = 1_048_576
MAX_FRAMES = 10_000
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)  # ZMTP 3.0, as a client begins ...
_READY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
READY = b"\x04" + bytes([len(_READY)]) + _READY  # ... and ends its handshake
HELLO = wire.encode([(wire.HELLO, 0, 0, CLIENT.greeting({}))], 0)


class Scene:
    """A server under attack, and the means of the attackers."""

    def __init__(self, house: House, server: Server) -> None:
        self.house, self.server = house, server
        host, _, port = house.endpoint.removeprefix("tcp://").rpartition(":")
        self.address = (host, int(port))

    @contextmanager
    def zmq(self, kind: int = zmq.DEALER, **options: Any) -> Iterator[zmq.Socket[bytes]]:
        """A bare ZeroMQ socket that is connected to the server."""
        with zmq.Context() as context, context.socket(kind) as sock:
            sock.setsockopt(zmq.LINGER, 5000)
            for name, value in options.items():
                sock.setsockopt(getattr(zmq, name), value)
            sock.connect(self.house.endpoint)
            yield sock

    @contextmanager
    def tcp(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address) as sock:
            yield sock

    async def speak_zmtp(self, sock: socket.socket) -> None:
        """Go through the handshake by hand, on a bare TCP connection."""
        sock.sendall(GREETING + READY)
        sock.setblocking(False)
        said = b""
        while b"READY" not in said:
            said += await asyncio.get_running_loop().sock_recv(sock, 1000)

    async def counted(self, malformed: int) -> None:
        await eventually(lambda: self.server.counters["malformed"] >= malformed)
        assert self.server.counters["malformed"] == malformed


Attack = Callable[[Scene], Awaitable[None]]


def survives(attack: Attack) -> None:
    async def story() -> None:
        files = open_files()
        network = ZmqNetwork(asyncio.get_running_loop(), LinkOptions(handshake_timeout=HANDSHAKE_MS))
        async with House(network) as house:
            server = house.serve()
            async with neighbour(house):
                await attack(Scene(house, server))
            await eventually(
                lambda: len(server.callers) == 1
            )  # the neighbour; nobody else stays in the books
            assert await ask(house.peer(), "echo", "a newcomer") == "a newcomer"
            assert server.in_flight == 0
        await closed(network)
        await eventually(lambda: open_files() == files)

    run(story(), "uvloop")


@asynccontextmanager
async def neighbour(house: House) -> AsyncIterator[None]:
    """A good peer that asks without a pause; all of it must be answered, over the one link it began with."""
    heard, answered, over = Happenings(), 0, False
    peer = house.peer(events=heard)
    first = asyncio.Event()

    async def asking() -> None:
        nonlocal answered
        while not over:
            assert await ask(peer, "echo", answered) == answered
            answered += 1
            first.set()

    task = asyncio.create_task(asking())
    await first.wait()
    yield
    over = True
    await task
    assert heard.story == [f"ready: server-1 {EPOCH}"]


async def heard(sock: zmq.Socket[bytes], count: int) -> list[wire.Envelope]:
    """The next envelopes that the server says to a bare socket."""
    envelopes: list[wire.Envelope] = []
    while len(envelopes) < count:
        await eventually(lambda: sock.poll(0))
        envelopes.extend(wire.decode(sock.recv())[1])
    return envelopes


@contextmanager
def bare_router() -> Iterator[zmq.Socket[bytes]]:
    """A server by hand."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        router.bind("tcp://127.0.0.1:*")
        yield router


async def received(router: zmq.Socket[bytes]) -> list[bytes]:
    await eventually(lambda: router.poll(0))
    return router.recv_multipart()


async def answer(router: zmq.Socket[bytes], routing_id: bytes) -> None:
    """Greet a caller, and answer its first call with 7."""
    router.send_multipart([routing_id, wire.encode([(wire.HELLO_OK, 0, 0, CLIENT.greeting({}))], 0)])
    await received(router)
    router.send_multipart([routing_id, wire.encode([(wire.REPLY, 0, 1, None, 0, b"\x07", None)], 0)])


# --- messages that are none


BROKEN = {
    "nothing": b"",
    "garbage": b"\xc1garbage",
    "text": b"\xa5hello",
    "cut short": wire.encode([request(1)], 0)[:-5],
    "deep": b"\x93\x01\x00" + b"\x91" * 2000,
    "very deep": b"\x91" * 4000,
    "a length that lies": b"\x93\x01\x00\xdd\xff\xff\xff\xff",
    "a key that is no text": b"\x93\x01\x00\x91\x94\x0a\x00\x01\x81\x01\x02",
    "an extension": b"\x93\x01\x00\x91\x94\x0a\x00\x01\x81\xa1a\xd6\xff\x00\x00\x00\x00",
    "unknown kind": wire.encode([(77, 0, 1)], 0),
    "too few fields": wire.encode([(wire.REQUEST, 0, 1)], 0),
    "longer than a greeting": b"x" * (wire.MAX_GREETING + 1),
}


@pytest.mark.parametrize("message", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("greeted", [False, True], ids=["stranger", "guest"])
def test_a_broken_message_is_counted_and_dropped(message: bytes, greeted: bool) -> None:
    async def attack(scene: Scene) -> None:
        with scene.zmq() as sock:
            if greeted:
                sock.send(HELLO)
            for _ in range(200):
                sock.send(message)
            await scene.counted(200)
            if greeted:
                sock.send(wire.encode([request(1, "echo", "well")], 0))
                assert [envelope[0] for envelope in await heard(sock, 2)] == [wire.HELLO_OK, wire.REPLY]

    survives(attack)


def test_another_version_is_refused() -> None:
    async def attack(scene: Scene) -> None:
        with scene.zmq() as sock:
            sock.send(b"\x93\x09\x00\x90")
            assert await heard(sock, 1) == [(wire.REJECT, 0, 0, "version 1 is spoken here")]

    survives(attack)


def test_unknown_methods_are_answered_one_by_one() -> None:
    async def attack(scene: Scene) -> None:
        guest = await scene.house.guest()
        await guest.say(*[request(number, f"no{number}") for number in range(1, 1001)])
        assert {error[4] for error in await guest.hears(wire.ERROR, 1000)} == {"ERR_METHOD_NOT_FOUND"}
        guest.link.close()

    survives(attack)


def test_a_message_of_very_many_empty_things_is_only_slow() -> None:
    async def attack(scene: Scene) -> None:
        guest = await scene.house.guest()
        count = MAX_MESSAGE - 100
        await guest.say_bytes(b"\x93\x01\x00\xdd" + struct.pack(">I", count) + b"\x80" * count)
        await scene.counted(count)
        await guest.say(request(1))
        await guest.hears(wire.REPLY)
        guest.link.close()

    survives(attack)


# --- frames


@pytest.mark.parametrize("frames", [2, 3, 5_000])
def test_a_message_of_many_frames_is_discarded_and_the_next_one_is_intact(frames: int) -> None:
    async def attack(scene: Scene) -> None:
        with scene.zmq() as sock:
            sock.send(HELLO)
            for _ in range(3):
                sock.send_multipart([b""] * frames)
            sock.send(wire.encode([request(1, "echo", "intact")], 0))
            await scene.counted(3)
            assert [envelope[0] for envelope in await heard(sock, 2)] == [wire.HELLO_OK, wire.REPLY]

    survives(attack)


def test_a_message_of_far_too_many_frames_costs_its_sender_the_connection() -> None:
    async def attack(scene: Scene) -> None:
        with scene.zmq(RECONNECT_IVL=-1) as sock:
            sock.send(HELLO)
            await heard(sock, 1)
            before = scene.server.counters["lostCallers"]
            sock.send_multipart([b""] * 2 * MAX_FRAMES)
            await eventually(lambda: scene.server.counters["lostCallers"] == before + 1)
            await scene.counted(1)
            await eventually(lambda: not sock.poll(0, zmq.POLLOUT))

    survives(attack)


def test_many_frames_to_a_client_are_discarded_too() -> None:
    async def attack(scene: Scene) -> None:
        with bare_router() as router:
            peer = scene.house.peer(router.last_endpoint.decode())
            call = asyncio.create_task(ask(peer))
            routing_id, _hello = await received(router)
            router.send_multipart([routing_id, *[b""] * 5_000])
            await answer(router, routing_id)
            assert await call == 7
            peer.close()

    survives(attack)


def test_a_server_that_sends_far_too_many_frames_loses_the_link_and_may_come_again() -> None:
    async def attack(scene: Scene) -> None:
        with bare_router() as router:
            happened = Happenings()
            peer = scene.house.peer(router.last_endpoint.decode(), events=happened)
            call = asyncio.create_task(ask(peer))
            routing_id, _hello = await received(router)
            router.send_multipart([routing_id, *[b""] * 2 * MAX_FRAMES])
            await happened.until(lambda: happened.story)
            assert happened.story == [f"down: its message has more than rpc.maxFrames = {MAX_FRAMES} frames"]
            routing_id, _hello = await received(router)
            await answer(router, routing_id)
            assert await call == 7, "it waited for a link"
            peer.close()

    survives(attack)


def test_an_unfinished_message_of_many_frames_holds_up_nobody() -> None:
    async def attack(scene: Scene) -> None:
        with scene.tcp() as sock:
            await scene.speak_zmtp(sock)
            await asyncio.get_running_loop().sock_sendall(sock, b"\x01\x00" * 100_000)  # MORE, MORE, MORE ...
            for number in range(100):
                assert await ask(scene.house.peers[0], "echo", number) == number
        assert scene.server.counters["malformed"] == 0, "it never became a message"

    survives(attack)


def test_an_over_long_message_costs_its_sender_the_connection() -> None:
    async def attack(scene: Scene) -> None:
        guest = await scene.house.guest()
        guest.link.send(b"x" * (MAX_MESSAGE + 1))
        await guest.until(lambda: guest.downs)
        assert scene.server.counters["malformed"] == 0

    survives(attack)


# --- bytes that are not even ZeroMQ's

FOREIGN = {
    "http": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n" * 20,
    "http post": b"POST /api HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
    "tls": bytes.fromhex("16030102000100") + b"\x01\xfc\x03\x03" + os.urandom(508),
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n" + os.urandom(1500),
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "random": os.urandom(100_000),
    "half a greeting": GREETING[:10],
    "a greeting alone": GREETING,
    "a greeting and a lie": GREETING + b"\x04\xff" + b"\x00" * 300,
    "a handshake in one breath": GREETING + READY + b"\x00\x05hello",
    "an unknown mechanism": GREETING.replace(b"NULL", b"EVIL"),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("stays", [False, True], ids=["leaves", "stays"])
def test_bytes_of_another_protocol_are_survived(data: bytes, stays: bool) -> None:
    async def attack(scene: Scene) -> None:
        for _ in range(5):
            with scene.tcp() as sock:
                try:
                    sock.sendall(data)
                    if stays:
                        sock.setblocking(False)
                        for number in range(50):
                            assert await ask(scene.house.peers[0], "echo", number) == number
                except ConnectionError:
                    pass  # thrown out, and rightly so

    survives(attack)


@pytest.mark.parametrize("length", [MAX_MESSAGE + 1, 2**33, 2**63 - 1, 2**64 - 1])
def test_a_frame_that_says_it_is_too_long_is_not_waited_for(length: int) -> None:
    async def attack(scene: Scene) -> None:
        with scene.tcp() as sock:
            await scene.speak_zmtp(sock)
            await asyncio.get_running_loop().sock_sendall(
                sock, b"\x02" + struct.pack(">Q", length) + b"x" * 99
            )
            await eventually(lambda: _at_end(sock))

    survives(attack)


def test_silent_connections_are_closed_and_keep_nobody_out() -> None:
    async def attack(scene: Scene) -> None:
        silent = [socket.create_connection(scene.address) for _ in range(50)]
        assert await ask(scene.house.peer(), "echo", 1) == 1
        scene.house.peers.pop().close()
        for sock in silent:
            sock.setblocking(False)
            await eventually(partial(_at_end, sock))
            sock.close()

    survives(attack)


def _at_end(sock: socket.socket) -> bool:
    """Whether the other side closed; what it said before (half a greeting) does not matter."""
    try:
        return sock.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_connections_that_are_reset_at_once_leave_nothing() -> None:
    async def attack(scene: Scene) -> None:
        for number in range(300):
            with scene.tcp() as sock:
                if number % 2:
                    sock.sendall(GREETING)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 50 == 0:
                await asyncio.sleep(0)

    survives(attack)


def test_without_a_descriptor_left_a_dial_fails_like_any_other_and_comes_back() -> None:
    async def attack(scene: Scene) -> None:
        heard = Happenings()
        peer = scene.house.peer(events=heard, keep=True, redial_max=0.1)
        with no_descriptors_left():
            peer.dial()
            await heard.until(lambda: heard.story)
            assert heard.story[0].startswith("down: no socket could be made for it")
        await heard.until(lambda: peer.ready)
        scene.house.peers.pop().close()

    survives(attack)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay so
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- peers of ZeroMQ that are none of ours


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.PUSH, zmq.PUB, zmq.SUB, zmq.PAIR, zmq.ROUTER])
def test_other_kinds_of_sockets_are_no_trouble(kind: int) -> None:
    async def attack(scene: Scene) -> None:
        with scene.zmq(kind, LINGER=0, SNDTIMEO=0) as sock:
            try:
                for _ in range(10):
                    sock.send(b"hello")
            except zmq.ZMQError:
                pass  # it cannot send at all, or not to this one
            for number in range(50):
                assert await ask(scene.house.peers[0], "echo", number) == number

    survives(attack)


def test_a_routing_id_that_a_peer_chose_gives_it_nobody_elses_answers() -> None:
    async def attack(scene: Scene) -> None:
        with scene.zmq(ROUTING_ID=b"me") as first:
            first.send(HELLO)
            await heard(first, 1)
            with scene.zmq(ROUTING_ID=b"me", LINGER=0) as second:
                second.send(HELLO)
                first.send(wire.encode([request(1)], 0))
                assert (await heard(first, 1))[0][0] == wire.REPLY
                assert not second.poll(0)

    survives(attack)


def test_a_caller_that_never_reads_holds_up_nobody_and_is_forgotten_when_it_goes() -> None:
    async def attack(scene: Scene) -> None:
        with scene.zmq(RCVHWM=1, LINGER=0) as sock:
            sock.send(HELLO)
            for number in range(1, 300):
                sock.send(wire.encode([request(number, "echo", b"x" * 100_000)], 0))
            await eventually(lambda: scene.server.handlers["echo"].stats.requests > 300)
            for number in range(50):
                assert await ask(scene.house.peers[0], "echo", number) == number

    survives(attack)


def test_hundreds_who_come_say_something_and_go_are_all_forgotten() -> None:
    async def attack(scene: Scene) -> None:
        with zmq.Context() as context:
            for number in range(300):
                with context.socket(zmq.DEALER) as sock:
                    sock.setsockopt(zmq.LINGER, 1000)
                    sock.connect(scene.house.endpoint)
                    sock.send([b"garbage", HELLO, wire.encode([], 0)][number % 3])
                if number % 20 == 0:
                    await asyncio.sleep(0)
        await eventually(lambda: len(scene.server.callers) == 1)
        listener: Any = scene.server._listener
        await eventually(lambda: len(listener._fd_of) == 1 and len(listener._ids_of) == 1)

    survives(attack)
