"""`Client` for code that does not await: scripts, notebooks, threads.

    with SyncClient() as client:
        print(client.infer("m1", "hello"))

Each `SyncClient` has an event loop of its own in one daemon thread, so it works where another loop runs
already, and from several threads at once. The invariant: nothing of the loop is touched from outside but
by `_LoopThread`, and the thread knows nothing of the `SyncClient`, so that one that is forgotten goes.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from . import errors
from .client import CONNECT_TIMEOUT, IDLE, INTERFACE, MESH, TIMEOUT, Client, InferOptions
from .client_stream import ClientStream

CLOSE_SECONDS = 5.0  # for goodbyes; a thread that takes longer is left behind
EXIT_SECONDS = 1.0  # the same for a client that nobody closed, when the program ends

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()


class SyncClient:
    """Blocking calls to a mesh: `with SyncClient() as client`, or `client.close()` at last.

    Arguments, methods and errors are those of `Client`. May be shared by threads. Ctrl-C ends the call that
    it interrupts, at the rack, too. One that nobody closes keeps no program from ending.
    """

    def __init__(
        self,
        *addresses: str,
        mesh: str = MESH,
        interface: str = INTERFACE,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        name: str = "",
        state_dir: Path | str | None = None,
    ) -> None:
        client = Client(
            *addresses,
            mesh=mesh,
            interface=interface,
            timeout=timeout,
            connect_timeout=connect_timeout,
            name=name,
            state_dir=state_dir,
        )
        self._thread = _LoopThread(client)
        weakref.finalize(self, self._thread.end_soon).atexit = False  # `_end_all` waits for it then

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, within 5 s; calls of other threads fail. A second close does nothing."""
        self._thread.end(CLOSE_SECONDS)

    def infer(
        self, model: str, input: Any, *, timeout: float | None = None, **options: Unpack[InferOptions]
    ) -> Any:
        """What `model` answers to `input`; see `Client.infer`."""
        return self._thread.run(lambda client: client.infer(model, input, timeout=timeout, **options))

    def stream(
        self,
        model: str,
        input: Any,
        *,
        timeout: float | None = None,
        idle: float = IDLE,
        total: float | None = None,
        **options: Unpack[InferOptions],
    ) -> SyncStream:
        """What `model` answers, item by item: `for item in client.stream(model, input)`; see `Client.stream`.

        Leaving the loop stops the rack.
        """
        stream = self._thread.client.stream(model, input, timeout=timeout, idle=idle, total=total, **options)
        return SyncStream(self, self._thread, stream)

    def models(self) -> list[str]:
        """The ids of the models that are served now, in order."""
        return self._thread.run(lambda client: client.models())

    def workers(self) -> list[dict[str, Any]]:
        """The workers that an orchestrator knows, each as `wrk workers --json` shows it."""
        return self._thread.run(lambda client: client.workers())

    def request(
        self,
        method: str,
        body: Any = None,
        *,
        timeout: float | None = None,
        peer: str = "",
        repeatable: bool = True,
    ) -> Any:
        """The whole answer to `method` of an orchestrator, or of `peer`; see `Client.request`."""
        return self._thread.run(
            lambda client: client.request(method, body, timeout=timeout, peer=peer, repeatable=repeatable)
        )


class SyncStream:
    """The items of one request, read once; it is sent when the loop begins.

    After the end, `value` is the final value and `facts` what was said besides, as with `ClientStream`.
    """

    def __init__(self, client: SyncClient, thread: _LoopThread, stream: ClientStream) -> None:
        self._client = client  # which must not go while it is read
        self._thread, self._stream = thread, stream

    @property
    def value(self) -> Any:
        return self._stream.value

    @property
    def facts(self) -> dict[str, Any]:
        return self._stream.facts

    @property
    def received(self) -> int:
        return self._stream.received

    def __iter__(self) -> Iterator[Any]:
        return _SyncItems(self, self._thread, aiter(self._stream))

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; the rack is told. Harmless when it is over."""
        try:
            self._thread.run(lambda _: self._stream.aclose())
        except (RuntimeError, errors.Unavailable):
            pass  # the client is closed, and all its streams with it


class _SyncItems:
    """The iterator of one loop. The reader behind it lives and dies in the loop's thread: only there may
    the last reference to it go."""

    def __init__(self, owner: SyncStream, thread: _LoopThread, reader: AsyncIterator[Any]) -> None:
        self._owner, self._thread = owner, thread
        self._reader = [reader]

    def __iter__(self) -> _SyncItems:
        return self

    def __next__(self) -> Any:
        item = self._thread.run(lambda _: _next_of(self._reader))
        if item is _END:
            raise StopIteration
        return item

    def __del__(self) -> None:
        self._thread.tell(self._reader.clear)


async def _next_of(reader: list[AsyncIterator[Any]]) -> Any:
    try:
        return await anext(reader[0])
    except StopAsyncIteration:  # no future carries that one
        return _END


_END = object()


class _LoopThread:
    """A client in an event loop in a thread. `run`, `tell` and `end` may be called from any other."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._ending = self._abandoned = False
        self._begun = threading.Event()
        self._problem: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._enough: asyncio.Event
        self._thread = threading.Thread(target=self._live, name="wrk-client", daemon=True)
        _running.add(self)
        self._thread.start()
        self._begun.wait()
        if self._problem is not None:
            raise self._problem

    def run(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """The result of `work(client)`. An interrupt here cancels it there."""
        if self._forked:
            raise RuntimeError("this client was made before a fork: make another one in this process")
        with self._lock:
            if self._ending:
                raise RuntimeError("this client is closed: make another one")
            future = asyncio.run_coroutine_threadsafe(work(self.client), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise errors.Unavailable("the client was closed before the answer came") from None
        except BaseException:
            future.cancel()
            raise
        finally:
            if self._abandoned:  # only threads that nobody waits for are left: what they would say is noise
                threading.Event().wait()

    def tell(self, act: Callable[[], None]) -> None:
        """Have something done there and do not wait, as finalizers must not."""
        if not self._forked:
            try:
                self._loop.call_soon_threadsafe(act)
            except RuntimeError:
                pass  # the loop has ended, and what was open in it

    def end_soon(self) -> None:
        """Begin to close the client and to end the thread."""
        if not self._forked:  # a lock that was held at the fork is held for ever
            with self._lock:
                self._ending = True
            self.tell(self._enough.set)

    def end(self, within: float) -> None:
        """The same, and wait up to so many seconds until it is done."""
        self.end_soon()
        if not self._forked:
            self._thread.join(within)

    def abandon(self) -> None:
        """The program ends."""
        self._abandoned = True
        self.end_soon()

    @property
    def _forked(self) -> bool:
        """Whether this is another process by now, where the thread is not."""
        return self._process != os.getpid()

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(self._main())
        except RuntimeError:
            if not self._ending:  # an interpreter that ends starts no thread more, to wait for others
                raise
        finally:
            _running.discard(self)

    async def _main(self) -> None:
        """Until the end. What is still asked then is cancelled by the runner, after its links are closed."""
        try:
            self._loop, self._enough = asyncio.get_running_loop(), asyncio.Event()
            await self.client.__aenter__()
        except BaseException as problem:
            self._problem = problem
            return
        finally:
            self._begun.set()
        await self._enough.wait()
        await self.client.close()


_running: set[_LoopThread] = set()


def _end_all() -> None:
    """No thread should meet an interpreter that is being taken apart."""
    ending = _running.copy()
    for thread in ending:
        thread.abandon()
    for thread in ending:
        thread.end(EXIT_SECONDS)


atexit.register(_end_all)
