"""A process's key pair: made once, kept for this user alone, and never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zmq

from wrk_base.errors import StartError
from wrk_base.security.curve_keys import ephemeral, load_or_make
from wrk_base.security.private_file import MAX_BYTES, read_private

OTHER_USER = 12_345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wrk-rack-sim-r1.key"


def test_a_pair_is_made_once_and_kept(path: Path) -> None:
    first = load_or_make(path)
    assert load_or_make(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    path.unlink()
    assert load_or_make(path) != first


def test_the_pair_is_one_that_zeromq_takes() -> None:
    keys = ephemeral()
    assert (len(keys.public), len(keys.secret)) == (32, 32)
    assert zmq.curve_public(keys.secret_z85) == keys.public_z85
    assert ephemeral() != keys


def test_the_secret_is_never_shown(path: Path) -> None:
    keys = load_or_make(path)
    assert repr(keys) == str(keys) == f"CurveKeys(public={keys.public!r})"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_file_that_others_may_open_is_not_believed(mode: int, path: Path) -> None:
    load_or_make(path)
    path.chmod(mode)
    with pytest.raises(StartError) as caught:
        load_or_make(path)
    assert str(caught.value) == (
        f"{path} is open to other users (mode {mode:o}): chmod 600 {path}; "
        "if one of them may have read it, remove it: a new key is made"
    )
    path.chmod(0o600)
    load_or_make(path)


@as_root
def test_a_file_of_another_user_is_not_believed(path: Path) -> None:
    load_or_make(path)
    os.chown(path, OTHER_USER, -1)
    with pytest.raises(StartError, match=f"{path} belongs to user {OTHER_USER}, and this is user 0: run as"):
        load_or_make(path)


def damaged_pairs() -> dict[str, bytes]:
    one, other = ephemeral(), ephemeral()
    return {
        "empty": b"",
        "one line end": b"\n",
        "no secret": one.public_z85,
        "two halves of different keys": one.public_z85 + b" " + other.secret_z85,
        "the secret first": one.secret_z85 + b" " + one.public_z85,
        "cut short": one.public_z85 + b" " + one.secret_z85[:-1],
        "something behind it": one.public_z85 + b" " + one.secret_z85 + b" more",
        "no text": b"\xff" * 40 + b" " + b"\xff" * 40,
        "no key": b"#" * 40 + b" " + b"#" * 40,
        "zeros": bytes(200),
    }


@pytest.mark.parametrize("kind", damaged_pairs())
def test_a_damaged_file_stops_the_start_and_is_not_overwritten(kind: str, path: Path) -> None:
    content = damaged_pairs()[kind]
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(
        StartError, match=r"is damaged .*restore it, or remove it: a new key is made"
    ) as caught:
        load_or_make(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_what_is_no_file_is_named(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(StartError, match=f"{path} is no file"):
        load_or_make(path)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(StartError, match=f"{path} cannot be used .Is a directory"):
        load_or_make(path)
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(StartError, match=f"{path} cannot be used"):
        load_or_make(path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"gone/p\.key cannot be used \(No such file"):
        load_or_make(tmp_path / "gone" / "p.key")


def test_a_file_is_read_up_to_its_bound(path: Path) -> None:
    path.touch(mode=0o600)
    os.truncate(path, MAX_BYTES)
    assert len(read_private(path, "") or b"") == MAX_BYTES
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(StartError, match="longer than"):
        read_private(path, "")
