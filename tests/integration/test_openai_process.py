"""The rack in front of an OpenAI-compatible server as a process of its own, as users run it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.http_process import PAGE
from tests.fakes.processes import ProcessHandle, client, spawn_worker, start_worker, until
from tests.fakes.upstream import in_thread
from tests.fakes.upstream_faults import STREAMS, UNARY
from wrk_base import errors

RACK = ("--wtype", "racks.openai:OpenAIRack", "--rack", "o1")
KEY = "sk-the-secret-of-this-process"
MIB = 1_048_576


async def ask(mesh: Any, rack: ProcessHandle, **options: Any) -> Any:
    chat = {"model": "m1", "messages": [{"role": "user", "content": "hello"}]}
    body = {"modelId": "m1", "inputData": chat, "options": {"task": "chat", **options}}
    return await mesh.request(rack.endpoint, "runInference", body, timeout=20.0)


def test_it_serves_what_the_upstream_has_and_keeps_the_key_to_itself(tmp_path: Path) -> None:
    async def story(rack: ProcessHandle) -> None:
        async with client(rack) as mesh:
            assert (await mesh.request(rack.endpoint, "getInfo", timeout=20.0))["models"] == ["m1", "m2"]
            answer = await ask(mesh, rack)
            assert answer["result"]["choices"][0]["message"]["content"].startswith("hello 0")
            health = await mesh.request(rack.endpoint, "getHealth", timeout=20.0)
            assert health["healthy"]

    with in_thread(["m1", "m2"], key=KEY) as upstream:
        flags = ("--upstream", f"{upstream.url}/v1", "--apiKeyEnv", "MODEL_KEY")
        with start_worker([*RACK, *flags], tmp_path, env={"MODEL_KEY": KEY}) as rack:
            run(story(rack))
            if sys.platform == "linux":
                assert KEY not in Path(f"/proc/{rack.pid}/cmdline").read_text()
        assert KEY not in rack.log()
        assert KEY not in "".join(
            path.read_text(errors="replace") for path in rack.state.rglob("*.json") if path.is_file()
        )


@pytest.mark.parametrize(
    ("flags", "env", "told"),
    [
        (("--modelServers.addresses", ""), {}, "no server is named and modelServers.addresses is empty"),
        (("--upstream", f"http://user:{KEY}@127.0.0.1:1"), {}, "a name and a password in the URL"),
        (("--upstream", "http://127.0.0.1:1", "--apiKeyEnv", "NOT_THERE"), {}, "has no NOT_THERE"),
    ],
)
def test_what_stops_the_start_is_one_line_without_a_secret(
    tmp_path: Path, flags: tuple[str, ...], env: dict[str, str], told: str
) -> None:
    with spawn_worker([*RACK, *flags], tmp_path, env=env) as rack:
        assert rack.wait() == 1
        (line,) = [line for line in rack.log().splitlines() if line.startswith("wrk: ")]
        assert told in line
        assert KEY not in rack.log()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, which only Linux has")
def test_floods_from_the_upstream_stay_small_in_memory(tmp_path: Path) -> None:
    floods = [fault for name, fault in (UNARY | STREAMS).items() if "without_end" in name]
    assert len(floods) >= 8

    def resident(rack: ProcessHandle) -> int:
        return int(Path(f"/proc/{rack.pid}/statm").read_text().split()[1]) * PAGE

    async def story(rack: ProcessHandle, upstream: Any) -> None:
        async with client(rack) as mesh:
            await ask(mesh, rack)
            before = resident(rack)
            for fault in floods:
                upstream.fault = fault
                ended = await asyncio.gather(*(ask(mesh, rack) for _ in range(8)), return_exceptions=True)
                assert [error for error in ended if not isinstance(error, errors.UpstreamFailed)] == []
            assert resident(rack) - before < 64 * MIB
            upstream.fault = None
            await until(lambda: ask(mesh, rack))

    with in_thread() as upstream:
        flags = ("--upstream", upstream.url, "--rpc.maxBody", str(MIB))
        with start_worker([*RACK, *flags], tmp_path) as rack:
            run(story(rack, upstream))
