"""Callers who hold connections by being slow, many of them in one process that is pinned to one core.

    with attacking(Plan("head", port, connections=2000)) as attack:
        ...
    figures = attack.figures()  # ends it, and waits until the server has ended every connection

`head` sends headers, `body` a body, a byte now and then; `read` asks for more than the kernel takes ahead
and reads a byte now and then. A connection that the server ends is made anew, so that `connections` stand all
the time. Sockets by hand: a library that reads ahead, or that notices an end late, would spoil the figures.
"""

from __future__ import annotations

import heapq
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from wrk_base import descriptors

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
FIRST = {
    "head": b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
    "body": b"POST /api/inference/route HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n",
    "read": b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n",
}
SMALL_WINDOW = 4096
TURN_S = 0.005
NICE = 10  # they stand for other machines, and take no processor from this one's
ENDED = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
BEGUN = "begun\n"


class Plan(msgspec.Struct, frozen=True):
    """`a_second` connections are opened, `pause` and `patience` are seconds."""

    kind: str
    port: int
    connections: int
    a_second: float = 200.0
    pause: float = 5.0
    patience: float = 60.0


class Figures(msgspec.Struct):
    """`lives` in seconds, of connections that the server ended; `left` are those that it did not."""

    opened: int = 0
    refused: int = 0
    most: int = 0
    left: int = 0
    lives: list[float] = []

    @property
    def longest(self) -> float:
        return max(self.lives, default=0.0)


class Crowd:
    """All callers, in one loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._callers: dict[int, tuple[socket.socket, float]] = {}
        self._due: list[tuple[float, int, socket.socket]] = []
        self._next_open = 0.0
        self.figures = Figures()

    def run(self, go_on: Iterator[bool]) -> None:
        """Until `go_on` says no, and then until every connection is ended."""
        stopped_at = 0.0
        while self._callers or not stopped_at:
            now = time.monotonic()
            if not stopped_at and not next(go_on):
                stopped_at = now
            if not stopped_at:
                self._open_some(now)
            elif now - stopped_at > self._plan.patience:
                break
            for descriptor, event in self._epoll.poll(TURN_S):
                self._happened(descriptor, event)
            self._be_slow()
        self.figures.left = len(self._callers)

    def _open_some(self, now: float) -> None:
        """Evenly: what could not be opened in time is not made up for in a burst."""
        plan = self._plan
        self._next_open = max(self._next_open, now - TURN_S)
        while len(self._callers) < plan.connections and self._next_open <= now:
            self._next_open += 1 / plan.a_second
            sock = socket.socket()
            if plan.kind == "read":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
            sock.connect((HOST, plan.port))
            sock.setblocking(False)
            self.figures.opened += 1
            try:
                sock.send(FIRST[plan.kind])
            except OSError:
                self.figures.refused += 1
                sock.close()
                continue
            watched = ENDED if plan.kind == "read" else ENDED | select.EPOLLIN
            self._epoll.register(sock, watched)
            began = time.monotonic()
            self._callers[sock.fileno()] = (sock, began)
            heapq.heappush(self._due, (began + plan.pause, sock.fileno(), sock))
        self.figures.most = max(self.figures.most, len(self._callers))

    def _happened(self, descriptor: int, event: int) -> None:
        sock, _ = self._callers[descriptor]
        if self._plan.kind == "read":
            self._end(descriptor)
            return
        try:
            while data := sock.recv(65_536):
                self.figures.refused += b" 503 " in data[:20]
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(descriptor)

    def _be_slow(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, descriptor, sock = heapq.heappop(self._due)
            if self._callers.get(descriptor, (None,))[0] is not sock:
                continue
            try:
                if self._plan.kind == "read":
                    sock.recv(1)
                else:
                    sock.send(b"x")
            except BlockingIOError:
                pass
            except OSError:
                self._end(descriptor)
                continue
            heapq.heappush(self._due, (now + self._plan.pause, descriptor, sock))

    def _end(self, descriptor: int) -> None:
        sock, began = self._callers.pop(descriptor)
        self.figures.lives.append(time.monotonic() - began)
        self._epoll.unregister(sock)
        sock.close()


class Attack:
    """One that runs in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def figures(self) -> Figures:
        """No more callers come; those that are there go on until the server ends them."""
        out, _ = self._process.communicate()
        return msgspec.json.decode(out, type=Figures)


@contextmanager
def attacking(plan: Plan) -> Iterator[Attack]:
    """Has begun when the block does; whatever happens, its process ends with the block."""
    command = [sys.executable, "-m", __name__, msgspec.json.encode(plan).decode()]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == BEGUN
        yield Attack(process)
    finally:
        process.kill()
        process.communicate()


def _until_end_of_input() -> Iterator[bool]:
    while True:
        yield not select.select([sys.stdin], [], [], 0)[0]


if __name__ == "__main__":
    descriptors.raise_limit()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.nice(NICE)
    crowd = Crowd(msgspec.json.decode(sys.argv[1], type=Plan))
    print(end=BEGUN, flush=True)
    crowd.run(_until_end_of_input())
    print(msgspec.json.encode(crowd.figures).decode())
