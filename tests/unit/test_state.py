"""The state directory: made private, one process per name, ids that stay and epochs that rise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from wrk_base.errors import StartError
from wrk_base.state import StateDir, default_state_dir, replace_file

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from wrk_base.state import StateDir
lock = StateDir(Path(sys.argv[1])).lock("wrk-rack-sim-r1")
print("held", flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


# --- the directory


def test_a_missing_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    StateDir(path)
    assert mode(path) == 0o700
    assert list(path.iterdir()) == []
    StateDir(path)


def test_a_file_in_the_way_stops_the_start_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartError, match="choose another one with --state-dir") as caught:
            StateDir(path)
        assert str(path) in str(caught.value)


def test_a_directory_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "shut"
    path.mkdir(mode=0o500)
    if os.geteuid() == 0:  # whom permission bits do not stop, unlike the kernel's own file systems
        path = Path("/proc/self")
    with pytest.raises(StartError, match="cannot be written") as caught:
        StateDir(path)
    assert f"state directory {path} " in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.local/state/wrk"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": ""}, "/home/u/.local/state/wrk"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "relative"}, "/home/u/.local/state/wrk"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "/var/state"}, "/var/state/wrk"),
        ({"XDG_STATE_HOME": "/var/state", "WRK_STATE_DIR": "/srv/wrk"}, "/srv/wrk"),
    ],
)
def test_the_default_directory_follows_the_environment(environ: dict[str, str], expected: str) -> None:
    assert default_state_dir(environ) == Path(expected)


def test_without_a_home_the_way_out_is_named() -> None:
    with pytest.raises(StartError, match="--state-dir"):
        default_state_dir({})


# --- the lock


def test_a_second_process_of_one_name_is_told_who_runs_and_what_to_do(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        with pytest.raises(StartError) as caught:
            StateDir(tmp_path).lock("wrk-rack-sim-r1")
        assert str(caught.value) == (
            f"a second process is already running as wrk-rack-sim-r1 (pid {first.pid}): "
            "stop it or choose another --rack name"
        )
        StateDir(tmp_path).lock("wrk-rack-sim-r2").release()
        first.communicate("")
    StateDir(tmp_path).lock("wrk-rack-sim-r1").release()


def test_a_killed_process_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "wrk-rack-sim-r1.lock").write_text("1234567890123\n")
    with holder(tmp_path) as first:
        first.kill()
        first.communicate()
    lock = StateDir(tmp_path).lock("wrk-rack-sim-r1")
    assert (tmp_path / "wrk-rack-sim-r1.lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_releasing_twice_gives_back_one_lock_and_closes_nothing_else(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    first = state.lock("a")
    first.release()
    second = state.lock("a")  # gets the descriptor that the first one gave back
    first.release()
    with pytest.raises(StartError, match=f"pid {os.getpid()}"):
        state.lock("a")
    second.release()
    assert mode(tmp_path / "a.lock") == 0o600


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.lock").mkdir()
    with pytest.raises(StartError, match=r"a\.lock cannot be used"):
        StateDir(tmp_path).lock("a")


@pytest.mark.parametrize("prefix", ["", ".", "../x", "a/b", "-a", "a b", "a\n", "a" * 201])
def test_a_prefix_never_leads_out_of_the_directory(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot name a process"):
        StateDir(tmp_path).lock(prefix)
    assert list(tmp_path.iterdir()) == []


# --- the identity


def test_the_id_stays_and_the_epoch_rises_from_start_to_start(tmp_path: Path) -> None:
    starts = [StateDir(tmp_path).identity("p-r1", "r1", Random(seed)) for seed in range(20)]
    assert len({start.instance_id for start in starts}) == 1
    epochs = [start.epoch for start in starts]
    assert epochs == sorted(set(epochs))
    assert [epoch >> 32 for epoch in epochs] == list(range(1, 21))
    assert len({epoch & 0xFFFF_FFFF for epoch in epochs}) == 20


def test_the_same_chance_makes_the_same_identity_and_other_chance_another(tmp_path: Path) -> None:
    made = [StateDir(tmp_path / str(n)).identity("p", "r1", Random(seed)) for n, seed in enumerate((1, 1, 2))]
    assert made[0] == made[1]
    assert made[0].instance_id != made[2].instance_id


@pytest.mark.parametrize(
    ("rack", "start"),
    [("r1", "r1-"), ("gpu.lan.1", "gpu-lan-1-"), ("a_b-c", "a_b-c-"), ("x" * 63, "x" * 51 + "-")],
)
def test_the_id_fits_into_one_label_of_a_name(rack: str, start: str, tmp_path: Path) -> None:
    made = StateDir(tmp_path).identity("p", rack, Random(1)).instance_id
    assert made.startswith(start)
    assert len(made) == len(start) + 8 <= 60
    assert "." not in made
    assert StateDir(tmp_path).identity("p", rack, Random(2)).instance_id == made


@pytest.mark.parametrize("rack", ["", ".r", "-r", "a b", "a/b", "é", "r\n", "x" * 64])
def test_a_bad_rack_name_is_refused(rack: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be a rack name: use up to 63 letters"):
        StateDir(tmp_path).identity("p", rack, Random(1))
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_private_and_holds_the_id_and_the_count(tmp_path: Path) -> None:
    StateDir(tmp_path).identity("p", "r1", Random(1))
    identity = StateDir(tmp_path).identity("p", "r1", Random(1))
    path = tmp_path / "p.id.json"
    assert mode(path) == 0o600
    assert json.loads(path.read_text()) == {"instanceId": identity.instance_id, "starts": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.id.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"starts": 1}',
        '{"instanceId": "a.b", "starts": 1}',
        '{"instanceId": "a", "starts": -1}',
        '{"instanceId": "a", "starts": 4294967295}',
        '{"instanceId": "a", "starts": "1"}',
    ],
)
def test_a_damaged_identity_stops_the_start_and_is_not_overwritten(content: str, tmp_path: Path) -> None:
    path = tmp_path / "p.id.json"
    path.write_text(content)
    with pytest.raises(StartError, match="is damaged") as caught:
        StateDir(tmp_path).identity("p", "r1", Random(1))
    assert str(path) in str(caught.value)
    assert path.read_text() == content


def test_an_identity_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.id.json").mkdir()
    with pytest.raises(StartError, match=r"p\.id\.json cannot be used \(Is a directory\)"):
        StateDir(tmp_path).identity("p", "r1", Random(1))


# --- files are replaced, not rewritten


def test_a_reader_of_the_old_file_is_not_disturbed_and_a_torn_write_is_cleaned_up(tmp_path: Path) -> None:
    path = tmp_path / "f"
    replace_file(path, b"old")
    (tmp_path / "f.new").write_bytes(b"torn by a power loss")
    with path.open("rb") as reader:
        replace_file(path, b"newer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"newer"
    assert mode(path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
