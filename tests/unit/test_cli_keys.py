"""`wrk key`: what is printed once, what is listed, what is wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wrk_orchestrator.cli.main import main
from wrk_orchestrator.http import api_keys
from wrk_orchestrator.http.key_files import KeyFile


class Terminal:
    """Runs commands on one state directory."""

    def __init__(self, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._where, self._capsys = ("--state-dir", str(state_dir)), capsys

    def key(self, *words: str) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)"""
        code = main(["key", *words, *self._where])
        said = self._capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capsys)


def test_a_key_is_printed_once_and_kept_nowhere(terminal: Terminal, tmp_path: Path) -> None:
    code, key, said = terminal.key("add", "alice", "--models", "m1, m2", "--rate", "60")
    assert (code, key.startswith("sk-wrk-"), len(key)) == (0, True, len("sk-wrk-") + 43 + 1)
    assert "authorization: Bearer" in said
    (kept,) = KeyFile(tmp_path).read()
    assert api_keys.holder([kept], key.strip().encode()) == kept
    assert (kept.name, kept.models, kept.rate) == ("alice", ["m1", "m2"], 60)
    for file in tmp_path.iterdir():
        assert key.strip() not in file.read_text()


def test_two_keys_are_never_the_same(terminal: Terminal) -> None:
    assert terminal.key("add", "a")[1] != terminal.key("add", "b")[1]


def test_the_list_tells_everything_but_the_keys(terminal: Terminal, tmp_path: Path) -> None:
    assert "wrk key add" in terminal.key("list")[1]
    key = json.loads(terminal.key("add", "alice", "--models", "m1", "--json")[1])
    terminal.key("add", "bob", "--rate", "5")
    code, shown, _ = terminal.key("list")
    assert code == 0
    for text in ("alice", "bob", "m1", "all", "any", "5", "UTC"):
        assert text in shown
    listed = json.loads(terminal.key("list", "--json")[1])
    assert [row["name"] for row in listed["keys"]] == ["alice", "bob"]
    assert set(listed["keys"][0]) == {"name", "created", "models", "rate"}
    (kept, _) = KeyFile(tmp_path).read()
    for secret in (key["key"], kept.sha256):
        assert secret not in shown + json.dumps(listed)


def test_a_name_is_given_once_until_its_key_is_removed(terminal: Terminal, tmp_path: Path) -> None:
    terminal.key("add", "alice")
    code, out, said = terminal.key("add", "alice")
    assert (code, out) == (1, "")
    assert "'alice'; remove it first" in said
    assert terminal.key("remove", "alice")[:2] == (0, "")
    assert KeyFile(tmp_path).read() == ()
    assert terminal.key("add", "alice")[0] == 0


def test_to_remove_what_is_not_there_is_a_failure(terminal: Terminal) -> None:
    code, out, said = terminal.key("remove", "alice", "--json")
    assert (code, out, json.loads(said)["error"]["code"]) == (1, "", "ERR_NOT_FOUND")


@pytest.mark.parametrize(
    "words",
    [
        ("add",),
        ("add", "a b"),
        ("add", "a", "--rate", "0"),
        ("add", "a", "--rate", "soon"),
        ("add", "a", "--models", "x" * 300),
        ("remove",),
        ("show",),
    ],
)
def test_wrong_usage_is_2_and_changes_nothing(
    terminal: Terminal, tmp_path: Path, words: tuple[str, ...]
) -> None:
    code, out, said = terminal.key(*words)
    assert (code, out) == (2, "")
    assert "Usage: wrk" in said
    assert not KeyFile(tmp_path).path.exists()


def test_a_file_that_others_can_read_is_not_believed(terminal: Terminal, tmp_path: Path) -> None:
    terminal.key("add", "alice")
    KeyFile(tmp_path).path.chmod(0o644)
    code, _, said = terminal.key("list")
    assert (code, "chmod 600" in said) == (1, True)
