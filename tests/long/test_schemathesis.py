"""Whether the API does what its document says, 1,000 examples an operation, all phases.

Run by `bin/test --long`; it prints what was tried, and the seed.
"""

from __future__ import annotations

import faulthandler
from pathlib import Path

import pytest

from tests.fakes.aio import run
from tests.fakes.schema_run import run_schemathesis

pytestmark = pytest.mark.long

EXAMPLES = 1000
LONGEST_S = 3600.0


def test_what_is_answered_is_what_is_written(tmp_path: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes minutes, and that is no hang

    async def story() -> None:
        print("\n" + await run_schemathesis(tmp_path, EXAMPLES))

    run(story(), "uvloop", within=LONGEST_S)
