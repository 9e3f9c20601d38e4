"""The status file: whole or absent, private, and never with a secret in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wrk_base.errors import StartError
from wrk_base.status import StatusFile

FACTS = {"pid": 12, "instanceId": "r1-0123abcd", "endpoint": "tcp://127.0.0.1:8004", "publicKey": "rq:rM"}


@pytest.fixture
def status(tmp_path: Path) -> StatusFile:
    return StatusFile(tmp_path / "status" / "wrk-rack-sim-r1.json")


def test_the_file_holds_the_facts_in_a_stable_order(status: StatusFile) -> None:
    status.write(FACTS)
    text = status.path.read_text()
    assert json.loads(text) == FACTS
    assert list(json.loads(text)) == sorted(FACTS)
    assert text.endswith("}\n")


def test_the_file_and_its_directory_are_for_this_user_alone(status: StatusFile) -> None:
    status.write(FACTS)
    assert status.path.stat().st_mode & 0o777 == 0o600
    assert status.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_later_write_replaces_the_earlier_and_leaves_nothing_beside_it(status: StatusFile) -> None:
    status.write(FACTS)
    with status.path.open() as reader:
        status.write({"pid": 13})
        assert json.loads(reader.read()) == FACTS
    assert json.loads(status.path.read_text()) == {"pid": 13}
    assert list(status.path.parent.iterdir()) == [status.path]


def test_removing_is_done_once_and_harmless_afterwards(status: StatusFile) -> None:
    status.remove()
    status.write(FACTS)
    status.remove()
    assert not status.path.exists()
    status.remove()


@pytest.mark.parametrize(
    "facts",
    [
        {"secretKey": "x"},
        {"rpc": {"PrivateKey": "x"}},
        {"links": [{"token": "x"}]},
        {"adminPassword": "x"},
    ],
)
def test_what_sounds_like_a_secret_is_never_written(facts: dict[str, Any], status: StatusFile) -> None:
    status.write(FACTS)
    with pytest.raises(ValueError, match="may be a secret"):
        status.write(FACTS | facts)
    assert json.loads(status.path.read_text()) == FACTS


def test_a_place_that_cannot_be_written_stops_the_start_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("in the way")
    status = StatusFile(tmp_path / "status" / "p.json")
    with pytest.raises(StartError, match="choose another directory with --state-dir") as caught:
        status.write(FACTS)
    assert str(status.path) in str(caught.value)
    status.remove()
