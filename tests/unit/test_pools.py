"""Blocking functions in threads and processes: what a caller gets, and when a seat is free again."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.fakes import pool_functions as functions
from tests.fakes.aio import LoopName, eventually, open_files, run
from tests.fakes.fifo import Fifo
from wrk_base import errors
from wrk_base.rpc.pool_process import check_importable
from wrk_base.rpc.pools import Pools, Running

BOTH_LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
LARGE = 3_000_000  # bytes; many times what a socket's buffer holds


def with_pools(
    story: Callable[[Pools], Awaitable[None]],
    threads: int = 1,
    processes: int = 1,
    loop: LoopName = "asyncio",
) -> None:
    """Run a story with pools, and close these."""

    async def whole() -> None:
        with closing(Pools(threads, processes)) as pools:
            await story(pools)

    run(whole(), loop)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pool_threads() -> int:
    return sum(thread.name == "wrk-pool" for thread in threading.enumerate())


class Gate:
    """A function that begins, and returns when it is let go."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self.open = Event()

    def __call__(self) -> str:
        self._loop.call_soon_threadsafe(self.begun.set)
        self.open.wait()
        return "through"


# --- both


def test_a_pool_has_a_seat_at_least() -> None:
    for threads, processes in [(0, 1), (1, 0), (-1, 1)]:
        with pytest.raises(ValueError, match="one thread and one process"):
            Pools(threads, processes)


def test_nothing_is_made_before_it_is_used() -> None:
    before = pool_threads(), open_files()
    pools = Pools(100, 100)
    assert (pool_threads(), open_files()) == before
    pools.close()


def test_ended_may_be_awaited_by_a_task_that_is_cancelled() -> None:
    async def story(pools: Pools) -> None:
        gate = Gate()
        call = pools.run_in_thread(gate)
        await gate.begun.wait()
        call.ended.cancel()
        gate.open.set()
        assert await call == "through"
        assert await pools.run_in_thread(str, 1) == "1"

    with_pools(story)


# --- threads


@BOTH_LOOPS
def test_a_thread_gives_the_result_or_the_exception(loop: LoopName) -> None:
    async def story(pools: Pools) -> None:
        assert await pools.run_in_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await pools.run_in_thread(functions.divide, 1, 0)
        assert await pools.run_in_thread(functions.divide, 6, 3) == 2
        assert pools.busy_threads == 0

    with_pools(story, loop=loop)


def raise_error(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), StopIteration(1), GeneratorExit(), asyncio.CancelledError()],
    ids=repr,
)
def test_what_would_end_the_loop_arrives_as_an_error_of_the_function(error: BaseException) -> None:
    async def story(pools: Pools) -> None:
        with pytest.raises(errors.Internal, match="raise_error ended with") as caught:
            await pools.run_in_thread(raise_error, error)
        assert caught.value.__cause__ is error

    with_pools(story)


def test_threads_are_as_many_as_calls_need_and_no_more_than_allowed() -> None:
    async def story(pools: Pools) -> None:
        for _ in range(3):
            await pools.run_in_thread(str)
        assert pool_threads() == 1
        gates = [Gate() for _ in range(4)]
        calls = [pools.run_in_thread(gate) for gate in gates]
        await asyncio.gather(*(gate.begun.wait() for gate in gates[:3]))
        assert (pool_threads(), pools.busy_threads, pools.waiting) == (3, 3, 1)
        assert [call.begun for call in calls] == [True, True, True, False]
        for gate in gates:
            gate.open.set()
        assert await asyncio.gather(*calls) == ["through"] * 4
        assert pools.waiting == 0

    with_pools(story, threads=3)


@BOTH_LOOPS
def test_a_thread_stays_taken_until_its_function_returns(loop: LoopName) -> None:
    async def story(pools: Pools) -> None:
        gate = Gate()
        given_up = pools.run_in_thread(gate)
        await gate.begun.wait()
        given_up.result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        next_call = pools.run_in_thread(str, "next")
        assert (pools.busy_threads, pools.waiting) == (1, 1)
        assert not given_up.ended.done()

        gate.open.set()
        await given_up.ended
        assert await next_call == "next"
        assert pools.busy_threads == 0

    with_pools(story, loop=loop)


def test_calls_wait_in_order_and_one_that_is_given_up_never_runs() -> None:
    async def story(pools: Pools) -> None:
        gate, ran = Gate(), list[int]()
        pools.run_in_thread(gate)
        calls = [pools.run_in_thread(ran.append, number) for number in range(4)]
        calls[1].result.cancel()
        await calls[1].ended
        assert (calls[1].begun, pools.waiting) == (False, 3)
        gate.open.set()
        await asyncio.gather(*(call.ended for call in calls))
        assert ran == [0, 2, 3]

    with_pools(story)


def test_a_call_that_is_given_up_in_the_turn_that_would_begin_it_never_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(pools: Pools) -> None:
        gate, ran, posted = Gate(), list[int](), Event()
        pools.run_in_thread(gate)
        call = pools.run_in_thread(ran.append, 1)
        await gate.begun.wait()

        loop = asyncio.get_running_loop()
        post = loop.call_soon_threadsafe

        def post_and_say(*args: Any) -> None:
            post(*args)
            posted.set()

        monkeypatch.setattr(loop, "call_soon_threadsafe", post_and_say)
        gate.open.set()
        posted.wait()  # the thread is free, as the loop will hear in its next turn
        call.result.cancel()
        await call.ended
        assert not call.begun
        await pools.run_in_thread(str)
        assert ran == []

    with_pools(story)


def test_a_thread_that_cannot_be_started_refuses_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(pools: Pools) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda _: raise_error(RuntimeError("no more")))
            call = pools.run_in_thread(str)
            with pytest.raises(errors.CapacityExceeded, match="no thread can be started") as caught:
                await call
        assert caught.value.not_started
        assert call.ended.done()
        assert not call.begun
        assert await pools.run_in_thread(str, 1) == "1"

    with_pools(story)


class Thing:
    """An argument that can be watched."""


def look_at(thing: Thing) -> None:
    raise ValueError("seen")


@pytest.mark.parametrize("function", [look_at, functions.give_back])
def test_a_thread_keeps_nothing_of_a_call_alive(function: Callable[..., Any]) -> None:
    async def story(pools: Pools) -> None:
        thing = Thing()
        gone = weakref.ref(thing)
        try:
            await pools.run_in_thread(function, thing)
        except ValueError:
            pass
        del thing
        await eventually(lambda: gone() is None)

    gc.disable()  # references alone must do it
    try:
        with_pools(story)
    finally:
        gc.enable()


def test_closing_ends_idle_threads_and_waits_for_none_that_runs() -> None:
    async def story(pools: Pools) -> None:
        before = pool_threads()
        await pools.run_in_thread(str)
        gate = Gate()
        running, waiting = pools.run_in_thread(gate), pools.run_in_thread(str)
        await gate.begun.wait()
        pools.close()
        pools.close()
        late = pools.run_in_thread(str)
        for call, not_started in [(running, False), (waiting, True), (late, True)]:
            with pytest.raises(errors.Unavailable, match="stopping") as caught:
                await call
            assert caught.value.not_started is not_started
        assert waiting.ended.done()
        assert not running.ended.done()
        assert pools.busy_threads == 1

        gate.open.set()
        await running.ended
        assert pools.busy_threads == 0
        await eventually(lambda: pool_threads() == before)

    with_pools(story)


def test_a_closed_pool_leaves_no_idle_thread() -> None:
    before = pool_threads()

    async def story(pools: Pools) -> None:
        await asyncio.gather(*(pools.run_in_thread(str) for _ in range(3)))

    with_pools(story, threads=3)
    assert pool_threads() == before


def test_a_thread_may_outlive_the_loop() -> None:
    opened = Event()

    async def story(pools: Pools) -> None:
        pools.run_in_thread(opened.wait)

    with_pools(story)
    left = [thread for thread in threading.enumerate() if thread.name == "wrk-pool"]
    opened.set()
    for thread in left:
        thread.join()  # an exception in there would fail this test


# --- processes


@BOTH_LOOPS
def test_a_process_gives_results_and_is_used_again(loop: LoopName) -> None:
    async def story(pools: Pools) -> None:
        first = await pools.run_in_process(functions.pid)
        assert first != os.getpid()
        assert await pools.run_in_process(functions.pid) == first
        data = os.urandom(LARGE)
        assert await pools.run_in_process(functions.give_back, data) == data
        assert pools.busy_processes == 0

    with_pools(story, loop=loop)


@BOTH_LOOPS
def test_exceptions_come_back_with_their_traceback_as_a_note(loop: LoopName) -> None:
    async def story(pools: Pools) -> None:
        pid = await pools.run_in_process(functions.pid)
        with pytest.raises(ZeroDivisionError) as caught:
            await pools.run_in_process(functions.divide, 1, 0)
        assert "return a / b" in caught.value.__notes__[0]
        with pytest.raises(errors.BadRequest, match="no such image") as refused:
            await pools.run_in_process(functions.refuse)
        assert refused.value.data == {"field": "image"}
        with pytest.raises(errors.Internal, match=r"leave ended with SystemExit\(3\)"):
            await pools.run_in_process(functions.leave)
        with pytest.raises(errors.Internal, match="Odd: fish and bicycle"):
            await pools.run_in_process(functions.raise_odd)
        assert await pools.run_in_process(functions.pid) == pid

    with_pools(story, loop=loop)


def test_what_cannot_go_to_a_process_is_refused_with_what_can() -> None:
    def local() -> None:
        """Nobody else can import it."""

    def in_main() -> None: ...

    in_main.__module__ = "__main__"

    async def story(pools: Pools) -> None:
        unknown: list[Callable[..., Any]] = [local, in_main, threading.Lock().acquire]
        for function in unknown:
            with pytest.raises(errors.Internal, match="allowed is a function at the top level of a module"):
                await pools.run_in_process(function)
            with pytest.raises(TypeError, match="cannot run in a process"):
                check_importable(function)
        with pytest.raises(errors.BadRequest, match=r"arguments of give_back .* allowed is what pickle"):
            await pools.run_in_process(functions.give_back, threading.Lock())
        assert pools.busy_processes == 0
        check_importable(functions.divide)

    with_pools(story)


def test_what_cannot_be_read_on_the_other_side_fails_its_own_call_only() -> None:
    async def story(pools: Pools) -> None:
        pid = await pools.run_in_process(functions.pid)
        calls: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
            (functions.give_lock, (), "result of give_lock cannot leave its process"),
            (functions.give_back, (functions.Poison(),), "call cannot be read in a process"),
            (functions.give_poison, (), "result of give_poison cannot be read here"),
        ]
        for function, args, problem in calls:
            with pytest.raises(errors.Internal, match=problem):
                await pools.run_in_process(function, *args)
        assert await pools.run_in_process(functions.pid) == pid

    with_pools(story)


@BOTH_LOOPS
def test_giving_a_call_up_kills_its_process_and_another_takes_over(loop: LoopName, tmp_path: Path) -> None:
    async def story(pools: Pools) -> None:
        with Fifo(tmp_path / "fifo") as fifo:
            call = pools.run_in_process(functions.hang, fifo.path)
            pid = int(await fifo.heard())
            following = pools.run_in_process(functions.pid)
            assert (pools.busy_processes, pools.waiting) == (1, 1)
            call.result.cancel()
            await call.ended
            assert not is_alive(pid)
            assert await fifo.heard() == ""
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await following != pid

    with_pools(story, loop=loop)


def test_a_process_that_answers_while_it_is_killed_gets_no_other_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(pools: Pools) -> None:
        word = tmp_path / "word"
        os.mkfifo(word)
        with Fifo(tmp_path / "fifo") as fifo:
            call = pools.run_in_process(functions.wait_for_word, fifo.path, str(word))
            pid = int(await fifo.heard())
            with monkeypatch.context() as patch:
                for kill in ("kill", "killpg"):
                    patch.setattr(os, kill, lambda *_: None)
                call.result.cancel()
                await asyncio.to_thread(word.write_text, "go on")
                assert await fifo.heard() == ""
            following = pools.run_in_process(functions.pid)
            for _ in range(50):  # turns of the loop, in which the answer arrives
                await pools.run_in_thread(str)
            assert not call.ended.done()
            os.kill(pid, signal.SIGKILL)
            assert await following != pid

    with_pools(story)


def test_a_killed_process_is_replaced_before_anybody_asks(tmp_path: Path) -> None:
    async def story(pools: Pools) -> None:
        with Fifo(tmp_path / "fifo") as fifo:
            call = pools.run_in_process(functions.hang, fifo.path)
            await fifo.heard()
            before = open_files()
            call.result.cancel()
            await call.ended
            assert open_files() == before

    with_pools(story)


@BOTH_LOOPS
@pytest.mark.parametrize(
    ("function", "argument", "how"),
    [
        (functions.end_with, 3, "end_with failed: its process ended with exit status 3$"),
        (functions.end_with, 0, "ended with exit status 0"),
        (functions.signal_self, signal.SIGSEGV, "signal_self failed: its process was ended by signal 11 "),
        (functions.signal_self, signal.SIGKILL, "was ended by signal 9 .* memory runs out"),
    ],
    ids=["exit", "clean exit", "crash", "out of memory"],
)
def test_a_process_that_dies_fails_its_own_call_only(
    loop: LoopName, function: Callable[..., Any], argument: int, how: str, tmp_path: Path
) -> None:
    async def story(pools: Pools) -> None:
        with Fifo(tmp_path / "fifo") as fifo:
            other = pools.run_in_process(functions.wait_for_word, fifo.path, os.devnull)
            await fifo.heard()
            with pytest.raises(errors.Internal, match=how):
                await pools.run_in_process(function, argument)
            assert await other == ""
            assert await pools.run_in_process(functions.give_back, "goes on") == "goes on"

    with_pools(story, processes=2, loop=loop)


def test_a_call_that_waits_for_a_process_and_is_given_up_never_runs(tmp_path: Path) -> None:
    async def story(pools: Pools) -> None:
        with Fifo(tmp_path / "fifo") as fifo:
            blocking = pools.run_in_process(functions.hang, fifo.path)
            await fifo.heard()
            waiting = pools.run_in_process(functions.touch, str(tmp_path / "ran"))
            waiting.result.cancel()
            await waiting.ended
            blocking.result.cancel()
            await pools.run_in_process(functions.pid)
            assert not (tmp_path / "ran").exists()

    with_pools(story)


@BOTH_LOOPS
def test_a_process_that_reads_nothing_holds_nobody_up(loop: LoopName) -> None:
    async def story(pools: Pools) -> None:
        pid = await pools.run_in_process(functions.pid)
        os.kill(pid, signal.SIGSTOP)
        call = pools.run_in_process(functions.length, bytes(LARGE))
        await asyncio.sleep(0)
        call.result.cancel()
        await call.ended
        assert await pools.run_in_process(functions.length, bytes(LARGE)) == LARGE

    with_pools(story, loop=loop)


def test_a_process_has_no_file_of_ours() -> None:
    async def story(pools: Pools) -> None:
        with socket.create_server(("127.0.0.1", 0)) as ours:
            ours.set_inheritable(True)
            status = os.fstat(ours.fileno())
            found = await pools.run_in_process(functions.descriptors)
            assert (status.st_dev, status.st_ino) not in found
            assert len(found) == 2  # the connection and the lifeline

    with_pools(story)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signals_that_ask_for_the_end_are_for_the_parent(number: signal.Signals, tmp_path: Path) -> None:
    async def story(pools: Pools) -> None:
        word = tmp_path / "word"
        os.mkfifo(word)
        with Fifo(tmp_path / "fifo") as fifo:
            call = pools.run_in_process(functions.wait_for_word, fifo.path, str(word))
            os.kill(int(await fifo.heard()), number)
            await asyncio.to_thread(word.write_text, "go on")
            assert await call == "go on"

    with_pools(story)


def test_what_a_process_started_dies_with_it(tmp_path: Path) -> None:
    async def story(pools: Pools) -> None:
        with Fifo(tmp_path / "fifo") as fifo:
            call = pools.run_in_process(functions.hang_with_program, fifo.path)
            await fifo.heard()
            call.result.cancel()
            assert await fifo.heard() == ""
        with Fifo(tmp_path / "other") as fifo:
            with pytest.raises(errors.Internal, match="exit status 4"):
                await pools.run_in_process(functions.fork_and_end_with, fifo.path, 4)
            assert await fifo.heard() != ""
            assert await fifo.heard() == ""

    with_pools(story)


def test_an_idle_process_that_dies_is_replaced_when_a_call_needs_it() -> None:
    async def story(pools: Pools) -> None:
        before = open_files()
        pid = await pools.run_in_process(functions.pid)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not is_alive(pid))
        assert open_files() == before
        assert await pools.run_in_process(functions.pid) != pid

    with_pools(story)


def test_an_interpreter_that_cannot_be_run_refuses_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(pools: Pools) -> None:
        before = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(errors.CapacityExceeded, match="no process can be started") as caught:
                await pools.run_in_process(functions.pid)
        assert caught.value.not_started
        assert open_files() == before
        assert await pools.run_in_process(functions.pid)

    with_pools(story)


def test_a_process_that_dies_at_its_start_is_not_started_over_and_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = list[subprocess.Popen[bytes]]()

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    async def story(pools: Pools) -> None:
        before = open_files()
        monkeypatch.setattr(sys, "executable", "false")
        with pytest.raises(errors.Internal, match="pid failed: its process ended with exit status 1"):
            await pools.run_in_process(functions.pid)
        await eventually(lambda: open_files() == before)
        assert len(started) == 2
        assert all(process.returncode == 1 for process in started)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    with_pools(story)


@BOTH_LOOPS
def test_closing_kills_what_runs_and_leaves_nothing(loop: LoopName, tmp_path: Path) -> None:
    async def story(pools: Pools) -> None:
        before = open_files()
        with Fifo(tmp_path / "fifo") as fifo:
            running = pools.run_in_process(functions.hang, fifo.path)
            pid = int(await fifo.heard())
            waiting = pools.run_in_process(functions.pid)
            pools.close()
            pools.close()
            late = pools.run_in_process(functions.pid)
            assert not is_alive(pid)
        expected: list[tuple[Running[Any], bool]] = [(running, False), (waiting, True), (late, True)]
        for call, not_started in expected:
            assert call.ended.done()
            with pytest.raises(errors.Unavailable, match="stopping") as caught:
                await call
            assert caught.value.not_started is not_started
        assert (pools.busy_processes, pools.waiting, open_files()) == (0, 0, before)

    with_pools(story, loop=loop)


def test_a_closed_pool_leaves_no_idle_process() -> None:
    async def story(pools: Pools) -> None:
        before = open_files()
        pids = await asyncio.gather(*(pools.run_in_process(functions.pid) for _ in range(2)))
        pools.close()
        assert not any(is_alive(pid) for pid in pids)
        assert open_files() == before

    with_pools(story, processes=2)
