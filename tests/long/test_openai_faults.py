"""Hostile upstreams at full size: every fault 200 times, twenty at once, and the rack as well as before.

Run by `bin/test --long`; prints how long each fault took and what the rack's process has grown by.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.http_process import PAGE
from tests.fakes.processes import ProcessHandle, client, start_worker
from tests.fakes.upstream import Fault, in_thread
from tests.fakes.upstream_faults import SILENT, STREAMS, UNARY
from wrk_base import errors

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

TIMES, AT_ONCE = 200, 20
DEADLINE_S = 2.0
SLACK_S = 0.5  # the fake upstream shares two cores with everybody
MIB = 1_048_576
TYPED = (errors.UpstreamFailed, errors.Unavailable, errors.DeadlineExceeded)
CHAT = {"model": "m1", "messages": [{"role": "user", "content": "hello"}]}
BODY = {"modelId": "m1", "inputData": CHAT, "options": {"task": "chat"}}


def resident(rack: ProcessHandle) -> int:
    pages = int(Path(f"/proc/{rack.pid}/statm").read_text().split()[1])
    return pages * PAGE


async def one(mesh: Any, rack: ProcessHandle, *, streamed: bool) -> float:
    """Seconds until its error came."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        if streamed:
            terms = {"timeout": DEADLINE_S, "total": DEADLINE_S}
            async for _ in mesh.stream(rack.endpoint, "runInference", BODY, **terms):
                pass
        else:
            await mesh.request(rack.endpoint, "runInference", BODY, timeout=DEADLINE_S)
    except TYPED:
        return loop.time() - begun
    raise AssertionError("it was answered")


@pytest.mark.parametrize(
    ("faults", "streamed"), [(UNARY | SILENT, False), (STREAMS, True)], ids=["answers", "streams"]
)
def test_every_fault_many_times(tmp_path: Path, faults: dict[str, Fault], streamed: bool) -> None:
    async def story(rack: ProcessHandle, upstream: Any) -> None:
        async with client(rack) as mesh:
            await mesh.request(rack.endpoint, "runInference", BODY, timeout=20.0)
            before = resident(rack)
            for name, fault in faults.items():
                upstream.fault = fault
                took: list[float] = []
                for _ in range(TIMES // AT_ONCE):
                    took += await asyncio.gather(
                        *(one(mesh, rack, streamed=streamed) for _ in range(AT_ONCE))
                    )
                upstream.fault = None
                await mesh.request(rack.endpoint, "runInference", BODY, timeout=20.0)
                grown = (resident(rack) - before) / MIB
                print(f"{name:40} x {len(took)}: at most {max(took):.3f} s, {grown:+.1f} MiB")
                assert max(took) <= DEADLINE_S + SLACK_S
                assert grown < 96

    with in_thread() as upstream:
        flags = ("--rack", "o1", "--upstream", upstream.url, "--rpc.maxBody", str(MIB))
        with start_worker(["--wtype", "racks.openai:OpenAIRack", *flags], tmp_path) as rack:
            run(story(rack, upstream), within=600.0)
