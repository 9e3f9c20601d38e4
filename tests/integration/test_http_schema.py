"""Whether the API does what its document says, a few examples each; `tests/long` has many."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.aio import run
from tests.fakes.schema_run import run_schemathesis


def test_what_is_answered_is_what_is_written(tmp_path: Path) -> None:
    async def story() -> None:
        assert "generated" in await run_schemathesis(tmp_path, 20, "--seed", "1")

    run(story(), "uvloop", within=120)
