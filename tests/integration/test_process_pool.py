"""How a process with pools ends: whatever still runs in these, and even when it is killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from tests.fakes.aio import run
from tests.fakes.fifo import Fifo

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import asyncio, sys
from tests.fakes import pool_functions
from wrk_base.rpc.pools import Pools

async def main():
    await Pools(1, 1).{how}(getattr(pool_functions, {function!r}), {fifo!r})

asyncio.run(main())
"""

THREAD_PARENT = """
import asyncio, sys, threading
from wrk_base.rpc.pools import Pools

async def main():
    pools, begun = Pools(1, 1), asyncio.Event()
    loop = asyncio.get_running_loop()

    def never_end():
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()

    call = pools.run_in_thread(never_end)
    await begun.wait()
    call.result.cancel()
    pools.close()
    sys.exit(7)

asyncio.run(main())
"""


@pytest.mark.parametrize("function", ["hang", "compute", "compute_in_c", "hang_with_program"])
def test_processes_end_with_a_parent_that_is_killed(function: str, tmp_path: Path) -> None:
    if function == "compute_in_c" and sys.platform != "linux":
        pytest.skip("only Linux can end code that holds the interpreter's lock")

    async def story() -> None:
        with Fifo(tmp_path / "fifo") as fifo:
            code = PARENT.format(how="run_in_process", function=function, fifo=fifo.path)
            parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT)
            try:
                assert await fifo.heard() != ""
            finally:
                parent.kill()
            assert await parent.wait() == -signal.SIGKILL
            assert await fifo.heard() == ""

    run(story())


def test_a_thread_that_never_returns_does_not_keep_the_process_from_its_end() -> None:
    async def story() -> None:
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", THREAD_PARENT, cwd=ROOT)
        assert await parent.wait() == 7

    run(story())
