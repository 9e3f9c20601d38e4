"""The seats of a pool: a thread, or a process with the connection to it.

A seat runs the call that its lane gives it and says when that is over (`finished`) or that the seat itself
is gone (`lost`). It decides nothing else. All of it runs in the event loop's thread but `ThreadSeat._work`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from . import pool_process
from .pool_process import HEADER, as_exception, name_of

if TYPE_CHECKING:
    from .pools import Lane, Running

END_SECONDS = 1.0  # for a thread that was told to end, and for the kernel to clear away a killed process
CHUNK = 262_144  # bytes read at a time: what a socket's buffer holds, so that a large result is no drain
NOTHING = memoryview(b"")


class ThreadSeat:
    """A thread that runs what it is given, one call at a time."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._loop = lane, asyncio.get_running_loop()
        self._calls: SimpleQueue[Running[Any] | None] = SimpleQueue()
        # A daemon: one that never returns must not keep the process from its end.
        self._thread = Thread(target=self._work, name="wrk-pool", daemon=True)
        self._thread.start()

    def begin(self, call: Running[Any]) -> None:
        self._calls.put(call)

    def abort(self) -> None:
        """There is no way to stop it: the function looks at `request.cancelled` itself, or runs on."""

    def close(self) -> None:
        self._calls.put(None)
        if self not in self._lane.running:
            self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            value, error = _outcome(call.work, call.function)
            try:
                self._loop.call_soon_threadsafe(self._lane.finished, self, value, error)
            except RuntimeError:  # the loop is closed: nobody is left who could want it
                return
            del call, value, error  # while it is idle, a thread keeps nothing alive


def _outcome(work: Callable[[], Any], function: Callable[..., Any]) -> tuple[Any, Exception | None]:
    """Knows no call: the exception's traceback keeps what it knows, and the call keeps the exception."""
    try:
        return work(), None
    except BaseException as error:
        return None, as_exception(error, function)


class ProcessSeat:
    """A process that runs what it is sent, one call at a time; `pool_process` is the other end.

    It leads a process group, so that a terminal's signals pass it by and what it started dies with it.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane, self._loop = lane, asyncio.get_running_loop()
        self._read, self._unsent = bytearray(), NOTHING
        self._aborted = self._ended = False
        with ExitStack() as on_failure:
            self._socket, its_socket = socket.socketpair()
            on_failure.callback(self._socket.close)
            with its_socket:
                its_lifeline, self._lifeline = os.pipe()
                on_failure.callback(os.close, self._lifeline)
                given = its_socket.fileno(), its_lifeline
                command = [sys.executable, "-c", pool_process.BOOTSTRAP, *map(str, given), *sys.path]
                try:
                    self._process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, pass_fds=given, process_group=0
                    )
                finally:
                    os.close(its_lifeline)
            on_failure.pop_all()
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def begin(self, call: Running[Any]) -> None:
        self._unsent = memoryview(HEADER.pack(len(call.work)) + call.work)
        call.work = None  # it may be large
        self._send()
        if self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._on_writable)

    def _send(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:  # it is dead, as the reader is about to hear
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:] if sent < len(self._unsent) else NOTHING

    def _on_writable(self) -> None:
        self._send()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _on_readable(self) -> None:
        try:
            chunk = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._end()
        elif not self._aborted:  # else all that matters is its end
            self._read += chunk
            if len(self._read) >= HEADER.size:
                self._on_bytes()

    def _on_bytes(self) -> None:
        end = HEADER.size + HEADER.unpack_from(self._read)[0]
        if len(self._read) < end:
            return
        frame, self._read = self._read, bytearray()
        name = name_of(self._lane.running[self].function)
        value, error = pool_process.unpack_outcome(memoryview(frame)[HEADER.size : end], name)
        self._lane.finished(self, value, error)

    def abort(self) -> None:
        """Kill it; its end of the connection tells when it is dead."""
        self._aborted = True
        for kill in (os.killpg, os.kill):
            try:
                kill(self._process.pid, signal.SIGKILL)
            except OSError:  # nobody is left in its group
                pass

    def close(self) -> None:
        if not self._ended:
            self._end()

    def _end(self) -> None:
        """Its connection has ended, and so has it: what remains is to clear it away."""
        self._ended = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self.abort()  # what it started; its pid is nobody else's until we have waited for it
        self._socket.close()
        os.close(self._lifeline)
        try:
            how = _how_it_ended(self._process.wait(END_SECONDS))
        except subprocess.TimeoutExpired:
            how = "closed its connection and cannot be killed"
        self._lane.lost(self, how)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    hint = ", as the kernel does when memory runs out" if status == -signal.SIGKILL else ""
    return f"was ended by signal {-status} ({signal.strsignal(-status)}{hint})"
