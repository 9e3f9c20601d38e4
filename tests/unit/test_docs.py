"""What the documents say is what the code says: pictures, settings and links that would age unseen."""

from __future__ import annotations

import re
from pathlib import Path

from wrk_base.rpc import stream
from wrk_orchestrator.health_picture import diagram, table

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")


def test_picture_of_health_is_the_one_that_the_table_draws() -> None:
    assert f"```mermaid\n{diagram().rstrip()}\n```" in (ROOT / "ARCHITECTURE.md").read_text()


def test_table_of_health_is_the_one_that_is_worked_by() -> None:
    assert f"\n\n{table()}\n" in (ROOT / "ARCHITECTURE.md").read_text()


def test_picture_of_an_answer_is_the_one_that_the_table_draws() -> None:
    assert f"```mermaid\n{stream.diagram().rstrip()}\n```" in (ROOT / "ARCHITECTURE.md").read_text()


def test_every_file_that_a_document_names_exists() -> None:
    named = re.compile(
        r"`((?:wrk_base|wrk_orchestrator|racks|tests|benchmarks|config|bin)/[\w./-]+?)`|\]\((\w[\w./-]+)\)"
    )
    missing = [
        f"{document} names {path}"
        for document in DOCUMENTS
        for match in named.finditer((ROOT / document).read_text())
        if not (ROOT / (path := match[1] or match[2])).exists()
    ]
    assert missing == []
