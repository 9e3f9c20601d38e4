"""schemathesis, run against an orchestrator by its own document: what is answered must be what is written.

It makes requests from the document, good ones and bad ones, in all its phases (the examples, every bound,
random ones, chains of requests), and holds each answer against the document. A status that is not
documented for an operation fails, and so does a 500 where it is documented: only 503 and 504 are answers
that a server in order may give.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from structlog.testing import capture_logs

from tests.fakes.http_house import admin_key, house

# Beside the flags, two things that the document cannot say: which texts are an address or a key that can
# be dialled, and that options which it does not list have whole numbers of 64 bits, as a rack gets them.
CONFIG = """
continue-on-failure = true

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]

[[operations]]
include-path = "/api/workers/register"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 429]

[[operations]]
include-path = "/api/inference/route"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 503, 504]

[[operations]]
include-path-regex = "/v1/.*"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 503, 504]
"""


async def run_schemathesis(tmp_path: Path, examples: int, *flags: str) -> str:
    """What it says at its end; fails with all of it, or for an error in the server's log."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with capture_logs() as logs:
        async with house(tmp_path) as h:
            process = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("schemathesis"),
                *("--config-file", "schemathesis.toml", "run", f"{h.service.http_endpoint}/openapi.json"),
                *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
                *("--max-examples", str(examples), "--header", f"x-wrk-admin-key: {admin_key(tmp_path)}"),
                *flags,
                cwd=tmp_path,
                env={**os.environ, "NO_COLOR": "1", "COLUMNS": "110"},
                stdout=PIPE,
                stderr=STDOUT,
            )
            said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert [event for event in logs if event["event"] == "http.failed"] == []
    assert re.search(r"Operations: +20 selected / 20 total", said), said
    return said[said.index("Test Phases:") :]
