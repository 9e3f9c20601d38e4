"""A process that asks a mesh at a steady pace and watches its racks, and writes down what it sees.

    with Witness(orchestrator, tmp_path / "seen", per_second=200) as seen:
        seen.until_answered(100)
        ...
    print(seen.p99("r2", since, until))

Open loop: a request is sent when it is due, whatever became of those before. Times are those of the
machine's monotonic clock, which all its processes share, in namespaces too (`prefix` is put before the
command line, as in `ip netns exec desk`). Only what was written down by whole lines is read.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, TextIO

from tests.fakes.aio import run
from tests.fakes.processes import ROOT, ProcessHandle, client, wait_until
from wrk_base import errors

LOOK_S = 0.02
DEADLINE_S = 5.0
LONG_S = 0.3  # three times what any of the racks takes by itself
WITHIN_S = 3_600.0


class Witness:
    """`answers` are the requests that have ended, `changes` those of racks' states, in order."""

    def __init__(
        self, orchestrator: ProcessHandle, path: Path, *, per_second: float, prefix: Sequence[str] = ()
    ) -> None:
        self._path = path
        facts = [orchestrator.state, orchestrator.status["mesh"], orchestrator.endpoint, path, per_second]
        words = [*prefix, sys.executable, "-m", "tests.fakes.health_witness", *map(str, facts)]
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE)

    def __enter__(self) -> Witness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(DEADLINE_S + 15.0)
        finally:
            self._process.kill()
            self._process.wait()

    def _lines(self, what: str) -> Iterator[dict[str, Any]]:
        whole = self._path.read_text().rpartition("\n")[0] if self._path.exists() else ""
        for line in whole.splitlines():
            seen = json.loads(line)
            if seen["what"] == what:
                yield seen

    @property
    def answers(self) -> list[dict[str, Any]]:
        return list(self._lines("answer"))

    @property
    def changes(self) -> list[dict[str, Any]]:
        return list(self._lines("change"))

    def until_answered(self, more: int) -> None:
        before = self._good()
        wait_until(lambda: self._good() >= before + more, 60.0, f"{more} more answers")

    def _good(self) -> int:
        return sum(answer["outcome"] == "ok" for answer in self.answers)

    def until_state(self, rack: str, *states: str, timeout: float = 60.0) -> float:
        """When it was first seen in one of these, from now on; "" means not listed."""
        began = time.monotonic()

        def reached() -> float | None:
            now = self.state(rack)
            if now is not None and now["new"] in states:
                return max(began, now["at"])
            return None

        return wait_until(reached, timeout, f"{rack} in {states}; it is {self.state(rack)}")

    def until_out(self, rack: str, timeout: float = 60.0) -> float:
        began = time.monotonic()

        def out() -> float | None:
            now = self.state(rack)
            return max(began, now["at"]) if now is not None and not now["routable"] else None

        return wait_until(out, timeout, f"{rack} out of routing")

    def state(self, rack: str) -> dict[str, Any] | None:
        seen = [change for change in self.changes if change["rack"] == rack]
        return seen[-1] if seen else None

    def outcomes(self, since: float = 0.0) -> Counter[str]:
        return Counter(answer["outcome"] for answer in self.answers if answer["sent"] >= since)

    def p99(self, racks: Sequence[str], since: float, until: float) -> float:
        """Seconds, of requests that went to these racks and nowhere else."""
        took = sorted(
            answer["at"] - answer["sent"]
            for answer in self.answers
            if since <= answer["sent"] < until and answer["rack"] in racks and answer["attempts"] == 1
        )
        assert len(took) >= 200, f"{len(took)} answers are too few to tell"
        return float(took[int(0.99 * len(took))])

    def felt(self, since: float, until: float) -> int:
        """Requests that a fault has touched: sent again, or on their way for long."""
        return sum(
            answer["attempts"] != 1 or answer["at"] - answer["sent"] > LONG_S
            for answer in self.answers
            if since <= answer["sent"] < until
        )

    def turns(self, rack: str, since: float, until: float) -> list[dict[str, Any]]:
        """When routing was told to start or to stop."""
        seen = [change for change in self.changes if change["rack"] == rack]
        return [
            after
            for before, after in pairwise(seen)
            if before["routable"] != after["routable"] and since <= after["at"] < until
        ]

    def sentences(self) -> list[dict[str, Any]]:
        return [change for change in self.changes if change["new"] == "quarantined"]


# --- what runs in the other process


def _notes_in(path: str) -> TextIO:
    return Path(path).open("w")


class _Notes:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, what: str, **facts: Any) -> None:
        self._file.write(json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\n")
        self._file.flush()


async def _ask(mesh: Any, endpoint: str, notes: _Notes, number: int, names: dict[str, str]) -> None:
    sent = time.monotonic()
    body = {"modelId": "m1", "inputData": f"request {number}"}
    rack, outcome, attempts = "", "ok", 0
    try:
        answer = await mesh.request(endpoint, "routeInferenceRequest", body, timeout=DEADLINE_S)
        rack, attempts = names.get(answer["workerId"], answer["workerId"]), answer["attempts"]
    except errors.WrkError as error:
        outcome = f"{error.name}: {error.message}"
    notes.write("answer", sent=sent, number=number, rack=rack, attempts=attempts, outcome=outcome)


async def _pace(mesh: Any, endpoint: str, notes: _Notes, per_second: float, names: dict[str, str]) -> None:
    loop = asyncio.get_running_loop()
    due, number = loop.time(), 0
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(_ask(mesh, endpoint, notes, number, names))
            due, number = due + 1 / per_second, number + 1
            await asyncio.sleep(max(0.0, due - loop.time()))


async def _watch(mesh: Any, endpoint: str, notes: _Notes, names: dict[str, str]) -> None:
    known: dict[str, tuple[str, bool]] = {}
    while True:
        try:
            listed = (await mesh.request(endpoint, "listWorkers", {}, timeout=DEADLINE_S))["workers"]
        except errors.WrkError:
            listed = None
        if listed is not None:
            names.update({worker["workerId"]: worker["name"] for worker in listed})
            now = {worker["name"]: (worker["state"], worker["limit"] > 0) for worker in listed}
            for rack in sorted({*now, *known}):
                if now.get(rack) != known.get(rack):
                    state, routable = now.get(rack, ("", False))
                    cause = next((worker["cause"] for worker in listed if worker["name"] == rack), "")
                    notes.write("change", rack=rack, new=state, routable=routable, cause=cause)
            known = now
        await asyncio.sleep(LOOK_S)


async def _witness(state: str, mesh_name: str, endpoint: str, path: str, per_second: str) -> None:
    worker: Any = SimpleNamespace(state=Path(state), status={"mesh": mesh_name})
    names: dict[str, str] = {}
    async with client(worker) as mesh:
        with _notes_in(path) as file:
            notes = _Notes(file)
            tasks = [asyncio.create_task(_watch(mesh, endpoint, notes, names))]
            if float(per_second):
                tasks.append(asyncio.create_task(_pace(mesh, endpoint, notes, float(per_second), names)))
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    state, mesh_name, endpoint, path, per_second = sys.argv[1:]
    run(_witness(state, mesh_name, endpoint, path, per_second), "uvloop", within=WITHIN_S)
