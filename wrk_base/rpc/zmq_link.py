"""Links over ZeroMQ: the only file of the RPC layer that knows the library.

Plain sockets and one fd reader each. The fd is edge-triggered and any send or receive may consume its
signal, so the rule that keeps this alive is: after every drain and after every send, EVENTS is read
once more. One DEALER is one connection: it never reconnects (RECONNECT_IVL -1), and with IMMEDIATE
its EVENTS lose POLLOUT the moment the link is lost. A monitor watches each dial only until it is up,
because a handshake that fails is visible nowhere else; the listener's stays, to learn of lost callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import secrets
import select
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from socket import SHUT_RDWR, socket

import zmq
from zmq.utils.monitor import parse_monitor_message

from .. import descriptors
from ..errors import StartError
from ..security import z85
from ..security.zap import DOMAIN, Door
from . import knock
from .link import NO_KEY, REFUSED, Link, LinkEvents, LinkOptions, Listener, ListenerEvents
from .lobby import Lobby, Where
from .membership import Membership
from .tick import Tick

_base_send = zmq.backend.Socket.send  # the wrapper above it costs as much as the send itself
_POLLIN, _POLLOUT, _EVENTS, _RCVMORE = int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.EVENTS), int(zmq.RCVMORE)
_SNDMORE, _DONTWAIT = int(zmq.SNDMORE), int(zmq.DONTWAIT)

DRAIN_MESSAGES = 64  # then the loop gets a turn; each message may carry many envelopes
DRAIN_SECONDS = 0.001
FRAMES_READ = 2  # of a message before the rest of it is discarded
DISCARD_FRAMES = 2000  # of one hostile multipart, before the loop gets a turn
PATROL_SECONDS = 1.0
LOBBY_SECONDS = 0.5

_DIAL_EVENTS = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
)


class ZmqNetwork:
    """Links over TCP in one ZeroMQ context, driven by one event loop.

    With a `membership` each of them is encrypted by CURVE and both sides prove their keys.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: LinkOptions | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.options = options or LinkOptions()
        self.loop = loop
        self.tick = Tick(loop)
        self.membership = membership
        self._door: Door | None = None
        self._rescued = 0
        self._driven: set[_Driven] = set()
        self._patrol: asyncio.TimerHandle | None = None
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_535)

    def listen(self, endpoint: str, events: ListenerEvents) -> Listener:
        if self.membership is not None and self._door is None:
            self._door = Door(self._context, self.loop, self.membership.lets_in)
        return ZmqListener(self, endpoint, events)

    def dial(self, endpoint: str, events: LinkEvents, *, heartbeat: bool = True) -> Link:
        key = b"" if self.membership is None else self.membership.key_of(endpoint)
        if key is None:
            advice = "give it as tcp://host:port#KEY (`wrk mesh` shows addresses with keys)"
            return _NoLink(self, events, f"{NO_KEY}: {advice}")
        try:
            return ZmqLink(self, endpoint, events, heartbeat, key)
        except zmq.ZMQError as error:
            return _NoLink(self, events, f"no socket could be made for it: {error.strerror}")

    async def diagnose(self, endpoint: str) -> str:
        return await knock.diagnose(endpoint)

    async def host_answers(self, endpoint: str) -> bool:
        return await knock.begins_handshake(endpoint)

    def close(self) -> None:
        if self._patrol is not None:
            self._patrol.cancel()
        if self._door is not None:
            self._door.close()
        self._context.term()

    @property
    def rescued(self) -> int:
        return self._rescued

    def enter(self, driven: _Driven) -> None:
        """A socket is driven from now on, and looked after."""
        self._driven.add(driven)
        if self._patrol is None:
            self._patrol = self.loop.call_later(PATROL_SECONDS, self._look_after)

    def leave(self, driven: _Driven) -> None:
        self._driven.discard(driven)

    def _look_after(self) -> None:
        """Find sockets whose wake-up was lost. There should be none: each is counted as a defect."""
        self._patrol = None
        for driven in self._driven:
            if driven.is_forgotten():
                self._rescued += 1
        if self._driven:
            self._patrol = self.loop.call_later(PATROL_SECONDS, self._look_after)

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        options, sock = self.options, self._context.socket(kind)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.SNDHWM, 0)
        sock.setsockopt(zmq.RCVHWM, 0)
        sock.setsockopt(zmq.MAXMSGSIZE, options.max_message)
        sock.setsockopt(zmq.HANDSHAKE_IVL, options.handshake_timeout)
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
        sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        return sock

    def secure(self, sock: zmq.Socket[bytes], server_key: bytes = b"") -> None:
        """Encrypt, and prove our key: as the client of a server with that key, else as a server."""
        if self.membership is None:
            return
        sock.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(self.membership.public_key).encode())
        sock.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(self.membership.secret_key).encode())
        if server_key:
            sock.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(server_key).encode())
        else:  # all three: without a domain libzmq asks nobody, whatever is enforced
            sock.setsockopt(zmq.CURVE_SERVER, 1)
            sock.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def watch(self, sock: zmq.Socket[bytes]) -> None:
        """Heartbeats: a fuse for hosts that vanish without closing.

        A process that dials a thousand racks does without them, since their beats tell it more: they
        would cost it 6 % of a core, because libzmq searches all timers of its thread to cancel one.
        """
        sock.setsockopt(zmq.HEARTBEAT_IVL, self.options.heartbeat)
        sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, self.options.heartbeat_timeout)
        sock.setsockopt(zmq.HEARTBEAT_TTL, self.options.heartbeat_timeout)


class _Driven(ABC):
    """A socket, its fd reader, and the rule that no change of EVENTS goes unseen."""

    def __init__(self, network: ZmqNetwork, sock: zmq.Socket[bytes]) -> None:
        self._network = network
        self._loop = network.loop
        self._tick = network.tick
        self._sock = sock
        self._get: Callable[[int], int] = sock.get  # type: ignore[assignment]
        self._recv = sock.recv
        self._send = partial(_base_send, sock)
        self._fd = int(sock.get(zmq.FD))
        self._due = False
        self._inside = False
        self._sent_inside = False
        self._discarding = False
        self._open = True
        self._turns = self._turns_seen = 0
        self._frames = 0  # read so far of a message that is discarded

    def _attach(self) -> None:
        self._loop.add_reader(self._fd, self._drain)
        self._network.enter(self)
        self._look()  # what arrived before the reader was there gives no signal

    def is_forgotten(self) -> bool:
        """Whether a message lies here of which nobody was told. It is looked at, then.

        Not while the loop is busy with the socket: what has just arrived has its signal under way. So only
        a socket without a turn since the last patrol is asked, and its descriptor before EVENTS, which
        would take the signal away.
        """
        idle, self._turns_seen = self._turns == self._turns_seen, self._turns
        if not idle or self._due or _is_readable(self._fd) or not self._has_news(self._get(_EVENTS)):
            return False
        self._look()
        return True

    def _has_news(self, events: int) -> bool:
        return bool(events & _POLLIN)

    def _look(self) -> None:
        """Read EVENTS once more before the loop sleeps."""
        if not self._due and not self._inside:
            self._due = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._due = False
        if not self._open:
            return
        self._turns += 1
        with self._tick:  # what it flushes at its end is sent like anything else: EVENTS is read after it
            self._inside = more = True
            try:
                more = self._pass()
            finally:
                # Also when an owner's callback raised: what lies behind its message gives no new signal.
                self._inside = False
                if more and self._open:
                    self._look()

    def _write(self, message: bytes, chunk: memoryview | None) -> None:
        if chunk is None:
            self._send(message, _DONTWAIT)
        else:
            self._send(message, _SNDMORE | _DONTWAIT)
            self._send(chunk, _DONTWAIT)  # copied: ARCHITECTURE.md says why

    @abstractmethod
    def _pass(self) -> bool:
        """One bounded turn of receiving; True when there is more to look at."""

    def _discard(self) -> bool:
        """Drop the rest of a multipart, a slice a turn: a million frames must not stop the loop."""
        frames = self._frames = max(self._frames, FRAMES_READ)
        limit = self._network.options.max_frames
        for _ in range(DISCARD_FRAMES):
            if not self._get(_RCVMORE):
                self._discarding, self._frames = False, 0
                return True
            self._recv(_DONTWAIT)
            frames += 1
            if frames > limit:
                self._discarding, self._frames = self._open, 0
                self._flooded()
                return False
        self._discarding, self._frames = True, frames
        return False

    @abstractmethod
    def _flooded(self) -> None:
        """A message goes on beyond `rpc.maxFrames` frames: end the connection that it comes from."""

    def _shut(self, linger_ms: int) -> bool:
        if not self._open:
            return False
        self._open = False
        self._network.leave(self)
        self._loop.remove_reader(self._fd)
        self._sock.close(linger_ms)
        return True


class ZmqListener(_Driven):
    """A bound ROUTER. Routing ids are its own and never a peer's choice.

    A ROUTER takes what a peer says of its own routing id, and gives a number that has become free to whoever
    claims it. So on encrypted links the key stands on every message and is compared with that of the number,
    who names an id of its own is thrown out, and the monitor is read before anything else: a number whose
    connection is known to be lost is nobody's until it is met again.
    """

    def __init__(self, network: ZmqNetwork, endpoint: str, events: ListenerEvents) -> None:
        # A ROUTER counts its peers from what rand() says, and libzmq seeds it nowhere. Who knows the next
        # number can claim it as its own, and when its turn comes, an assertion ends the process.
        ctypes.CDLL(None).srand(secrets.randbits(32))
        sock = network.socket(zmq.ROUTER)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        sock.setsockopt(zmq.BACKLOG, 1024)
        network.watch(sock)
        network.secure(sock)
        self.endpoint = _bind(sock, endpoint)
        super().__init__(network, sock)
        self._events = events
        self._fd_of: dict[bytes, int] = {}
        self._ids_of: defaultdict[int, set[bytes]] = defaultdict(set)
        self._lost_fds: list[int] = []
        self._sender = b""
        self._users: dict[bytes, str] = {}  # keys in hexadecimal, as the door wrote them
        self._settled: set[bytes] = set()
        self._lobby = Lobby(network.options.handshake_timeout / 1000 + LOBBY_SECONDS)
        self._lobby_timer: asyncio.TimerHandle | None = None
        self._is_open_house = network.membership is None
        watched = zmq.EVENT_DISCONNECTED | (0 if self._is_open_house else zmq.EVENT_ACCEPTED)
        self._monitor = _Monitor(network.loop, sock, watched, self._on_event)
        self._attach()

    def send(self, routing_id: bytes, message: bytes, chunk: memoryview | None = None) -> bool:
        try:
            self._send(routing_id, _SNDMORE | _DONTWAIT)
            self._write(message, chunk)
        except zmq.ZMQError as error:
            if error.errno in (errno.EHOSTUNREACH, zmq.EAGAIN, zmq.ENOTSOCK):
                return False  # gone, or this listener is closed
            raise
        if self._inside:
            self._sent_inside = True
        elif self._get(_EVENTS) & _POLLIN:
            self._look()
        return True

    def key_of(self, routing_id: bytes) -> bytes:
        return bytes.fromhex(self._users.get(routing_id, ""))

    def settled(self, routing_id: bytes) -> None:
        self._settled.add(routing_id)
        self._lobby.leave(self._fd_of.get(routing_id, -1))

    def expel(self, routing_id: bytes) -> None:
        fd = self._fd_of.get(routing_id)
        if fd is not None:
            _break(fd)

    def forget(self, routing_id: bytes) -> None:
        self._users.pop(routing_id, None)
        self._settled.discard(routing_id)
        fd = self._fd_of.pop(routing_id, None)
        if fd is not None:
            ids = self._ids_of[fd]
            ids.discard(routing_id)
            if not ids:
                del self._ids_of[fd]

    def close(self, linger_ms: int = 0) -> None:
        if self._open:
            self._monitor.close()
            if self._lobby_timer is not None:
                self._lobby_timer.cancel()
            self._shut(linger_ms)

    def _pass(self) -> bool:
        get, now = self._get, self._loop.time
        until, budget = now() + DRAIN_SECONDS, DRAIN_MESSAGES
        if self._discarding and not self._discard():
            return True
        self._monitor.read()
        self._sent_inside, more = False, True
        while self._open and (more := bool(get(_EVENTS) & _POLLIN)):
            if not budget or now() > until:
                break
            budget -= 1
            self._receive_one()
            if self._discarding:
                break
        if self._open:
            self._events.on_drained()
        if not self._open:
            return False
        if self._sent_inside:
            more = bool(get(_EVENTS) & _POLLIN)
        return more if more or not self._lost_fds else self._doubt_again()

    def _receive_one(self) -> None:
        routing_id = self._sender = self._recv(_DONTWAIT)
        if not self._get(_RCVMORE):
            self._events.on_malformed()
            return
        message = self._receive_from(routing_id)
        if message is None:
            self._discard()
            return
        if not self._get(_RCVMORE):
            self._events.on_message(routing_id, message)
            return
        chunk = self._recv(_DONTWAIT, copy=False).buffer
        if not self._get(_RCVMORE):
            self._events.on_message(routing_id, message, chunk)
        else:
            self._discard()
            self._events.on_malformed()

    def _flooded(self) -> None:
        self.expel(self._sender)

    def _receive_from(self, routing_id: bytes) -> bytes | None:
        """The message itself; None where it is not from whom the number belongs to."""
        if self._is_open_house and routing_id in self._fd_of:
            return self._recv(_DONTWAIT)
        frame = self._sock.recv(_DONTWAIT, copy=False)
        user = "" if self._is_open_house else str(frame.get("User-Id"))
        if self._users.get(routing_id) == user or self._meet(routing_id, frame, user):
            return frame.bytes
        return None

    def _meet(self, routing_id: bytes, frame: zmq.Frame, user: str) -> bool:
        """The first message of a peer tells its connection, to notice later that it is lost, and its key."""
        self._monitor.read()  # what the descriptor's number stood for before is lost, and has to be known
        if routing_id in self._users:
            self._events.on_lost(routing_id)
        try:
            fd = int(frame.get(int(zmq.SRCFD)))
        except zmq.ZMQError:
            return self._is_open_house
        if not self._is_open_house and frame.get("Identity"):
            _break(fd)
            return False
        self._fd_of[routing_id] = fd
        self._ids_of[fd].add(routing_id)
        self._users[routing_id] = user
        return True

    def _on_event(self, event: int, fd: int) -> None:
        if event == zmq.EVENT_DISCONNECTED:
            self._lobby.leave(fd)
            self._on_disconnected(fd)
        elif event == zmq.EVENT_ACCEPTED:
            where = _peer_of(fd)
            if where is None:
                return
            if descriptors.is_short(fd, descriptors.KEPT_FROM_CALLERS):
                _break(fd, where)
                self._events.on_crowded()
            elif not self._lobby.enter(fd, where, self._loop.time()):
                _break(fd, where)
            elif self._lobby_timer is None:
                self._lobby_timer = self._loop.call_later(LOBBY_SECONDS, self._clear_lobby)

    def _clear_lobby(self) -> None:
        """Throw out who was let in and has not said who it is."""
        self._lobby_timer = None
        for fd, where in self._lobby.overdue(self._loop.time()):
            # What a monitor tells may be behind what was received meanwhile.
            if not self._settled.intersection(self._ids_of.get(fd, ())):
                _break(fd, where)
        if self._lobby:
            self._lobby_timer = self._loop.call_later(LOBBY_SECONDS, self._clear_lobby)

    def _on_disconnected(self, fd: int) -> None:
        for routing_id in tuple(self._ids_of.get(fd, ())):
            self._events.on_lost(routing_id)
        # A peer that left at once may not have been read yet: it is looked for again when all was read.
        self._lost_fds.append(fd)
        self._look()

    def _doubt_again(self) -> bool:
        lost, self._lost_fds = self._lost_fds, []
        for fd in lost:
            self._doubt(fd)
        return True  # an owner in doubt sends, and after a send EVENTS must be read

    def _doubt(self, fd: int) -> None:
        # By now the number may belong to a newer connection, so the ids of it are only in doubt.
        for routing_id in tuple(self._ids_of.get(fd, ())):
            self._events.on_doubt(routing_id)


class ZmqLink(_Driven):
    """One DEALER, one connection, one life."""

    def __init__(
        self, network: ZmqNetwork, endpoint: str, events: LinkEvents, heartbeat: bool, key: bytes
    ) -> None:
        self.key = key
        sock = network.socket(zmq.DEALER)
        if key:
            network.secure(sock, key)
        if heartbeat:
            network.watch(sock)
        sock.setsockopt(zmq.IMMEDIATE, 1)
        sock.setsockopt(zmq.RECONNECT_IVL, -1)
        sock.setsockopt(zmq.CONNECT_TIMEOUT, network.options.handshake_timeout)
        super().__init__(network, sock)
        if descriptors.is_short(self._fd, descriptors.KEPT_FROM_LINKS):
            sock.close(0)
            raise zmq.ZMQError(errno.EMFILE)
        self._events = events
        self._up = False
        self._monitor: _Monitor | None = None
        try:
            self._monitor = _Monitor(network.loop, sock, _DIAL_EVENTS, self._on_dial_event)
        except zmq.ZMQError:
            sock.close(0)
            raise
        try:
            if "[" in endpoint:
                sock.setsockopt(zmq.IPV6, 1)
            sock.connect(endpoint)
        except zmq.ZMQError as error:
            reason = f"{endpoint} is no address that can be dialled: {error.strerror}"
            network.loop.call_soon(self._lost, reason)
        self._attach()

    def send(self, message: bytes, chunk: memoryview | None = None) -> bool:
        if not self._up:
            return False
        try:
            self._write(message, chunk)
        except zmq.Again:
            self._look()
            return False
        if self._inside:
            self._sent_inside = True
        elif self._get(_EVENTS) != _POLLOUT:
            self._look()
        return True

    def close(self, linger_ms: int = 0) -> None:
        self._up = False
        self._drop_monitor()
        self._shut(linger_ms)

    def _pass(self) -> bool:
        get, now = self._get, self._loop.time
        until, budget = now() + DRAIN_SECONDS, DRAIN_MESSAGES
        if self._discarding and not self._discard():
            return True
        self._sent_inside = False
        events = get(_EVENTS)
        if events & _POLLOUT and not self._up:
            self._came_up()
        while self._open and events & _POLLIN:
            if not budget or now() > until:
                break
            budget -= 1
            self._receive_one()
            if self._discarding:
                break
            if self._open:
                events = get(_EVENTS)
        if self._open:
            self._events.on_drained()
        if not self._open:
            return False
        if self._sent_inside or self._discarding:
            events = get(_EVENTS)
        if self._up and not events & _POLLOUT and not events & _POLLIN:
            self._lost("the connection was lost")
            return False
        return self._has_news(events)

    def _receive_one(self) -> None:
        message = self._recv(_DONTWAIT)
        if not self._get(_RCVMORE):
            self._events.on_message(message)
            return
        chunk = self._recv(_DONTWAIT, copy=False).buffer
        if self._get(_RCVMORE):
            self._discard()
        else:
            self._events.on_message(message, chunk)

    def _has_news(self, events: int) -> bool:
        return bool(events & _POLLIN) or bool(events & _POLLOUT) != self._up

    def _flooded(self) -> None:
        self._lost(f"its message has more than rpc.maxFrames = {self._network.options.max_frames} frames")

    def _came_up(self) -> None:
        self._up = True
        self._drop_monitor()
        self._events.on_up()

    def _on_dial_event(self, event: int, value: int) -> None:
        if not self._up:
            self._lost(_DIAL_REASONS.get(event, "nothing accepts connections there"))

    def _lost(self, reason: str) -> None:
        if self._open:
            self.close()
            self._events.on_down(reason)

    def _drop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None


class _NoLink:
    """A dial that cannot be begun: it fails like any other, and may be tried again."""

    key = b""

    def __init__(self, network: ZmqNetwork, events: LinkEvents, reason: str) -> None:
        self._telling = network.loop.call_soon(events.on_down, reason)

    def send(self, message: bytes, chunk: memoryview | None = None) -> bool:
        return False

    def close(self, linger_ms: int = 0) -> None:
        self._telling.cancel()


_DIAL_REASONS = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "it accepted the connection but did not finish the handshake",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "it does not speak this protocol",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): f"{REFUSED}our key was revoked",
    int(zmq.EVENT_DISCONNECTED): "it closed the connection during the handshake",
}


class _Monitor:
    """Socket events by callback; made and closed in the one order that leaves nothing behind."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: zmq.Socket[bytes],
        events: int,
        on_event: Callable[[int, int], None],
    ) -> None:
        self._loop, self._watched, self._on_event = loop, sock, on_event
        self._pair = sock.get_monitor_socket(events)
        self._fd = int(self._pair.get(zmq.FD))
        self._open = True
        loop.add_reader(self._fd, self.read)
        loop.call_soon(self.read)

    def read(self) -> None:
        """Tell of everything that has happened until now."""
        while self._open and int(self._pair.get(zmq.EVENTS)) & _POLLIN:
            facts = parse_monitor_message(self._pair.recv_multipart(_DONTWAIT))
            self._on_event(int(facts["event"]), int(facts["value"]))

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            self._watched.disable_monitor()
            self._pair.close(0)


@contextlib.contextmanager
def _connection(fd: int) -> Iterator[socket]:
    """The connection behind a descriptor of ZeroMQ's, by one of our own that leads there for as long as it
    is looked at; where there is none left, by ZeroMQ's."""
    try:
        own = os.dup(fd)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        borrowed = socket(fileno=fd)
        try:
            yield borrowed
        finally:
            borrowed.detach()
        return
    with socket(fileno=own) as connection:
        yield connection


def _peer_of(fd: int) -> Where | None:
    """Whom a descriptor of ZeroMQ's is connected to; None when it is gone already."""
    with contextlib.suppress(OSError, ValueError, IndexError), _connection(fd) as connection:
        host, port = connection.getpeername()[:2]
        return str(host), int(port)
    return None


def _break(fd: int, where: Where | None = None) -> None:
    """Break a connection, of which ZeroMQ then notices the end; only if it still leads to `where`, since
    the number may belong to another by now."""
    if where is not None and _peer_of(fd) != where:
        return
    with contextlib.suppress(OSError), _connection(fd) as connection:
        connection.shutdown(SHUT_RDWR)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _bind(sock: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind and return the real endpoint; a port of 0 is chosen by the kernel."""
    try:
        if "[" in endpoint:
            sock.setsockopt(zmq.IPV6, 1)
        sock.bind(endpoint.removesuffix("0") + "*" if endpoint.endswith(":0") else endpoint)
    except zmq.ZMQError as error:
        sock.close(0)
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"cannot listen on {endpoint}: the port is in use. Stop the process that has it, "
                "or choose another with --rpc.port (0 lets the system choose)"
            ) from None
        raise StartError(
            f"cannot listen on {endpoint}: {error.strerror}. Check --interface and --rpc.port"
        ) from None
    return str(sock.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())  # type: ignore[union-attr]
