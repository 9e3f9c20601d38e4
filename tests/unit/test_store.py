"""The store: versions that rise, tombstones that stay, and files that cannot be used."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.errors import Internal, StartError
from wrk_base.store import Record, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def test_a_record_rises_in_version_with_every_change_and_keeps_its_last_writer(store: Store) -> None:
    assert store.get("worker", "w1") is None
    first = Record("worker", "w1", 1, "o1", False, {"a": 1})
    assert store.put("worker", "w1", {"a": 1}, writer="o1") == first
    second = Record("worker", "w1", 2, "o2", False, {"a": 1})
    assert store.put("worker", "w1", {"a": 1}, writer="o2") == second
    assert store.get("worker", "w1") == second


def test_a_deletion_leaves_a_tombstone_that_is_no_longer_listed(store: Store) -> None:
    store.put("worker", "w1", {"a": 1}, writer="o1")
    tombstone = Record("worker", "w1", 2, "o2", True, {})
    assert store.delete("worker", "w1", writer="o2") == tombstone
    assert store.get("worker", "w1") == tombstone
    assert store.all("worker") == []


def test_deleting_twice_changes_nothing_and_the_unknown_leaves_no_trace(store: Store) -> None:
    store.put("worker", "w1", {}, writer="o1")
    first = store.delete("worker", "w1", writer="o1")
    assert store.delete("worker", "w1", writer="o2") == first
    assert store.delete("worker", "nobody", writer="o1") is None
    assert store.get("worker", "nobody") is None


def test_a_deleted_record_comes_back_above_its_tombstone(store: Store) -> None:
    store.put("worker", "w1", {"a": 1}, writer="o1")
    store.delete("worker", "w1", writer="o1")
    third = Record("worker", "w1", 3, "o1", False, {"b": 2})
    assert store.put("worker", "w1", {"b": 2}, writer="o1") == third
    assert [record.id for record in store.all("worker")] == ["w1"]


def test_kinds_do_not_meet_and_lists_are_in_order(store: Store) -> None:
    for kind, id in (("worker", "b"), ("worker", "a"), ("rack", "a")):
        store.put(kind, id, {"of": kind}, writer="o1")
    assert [(record.id, record.body) for record in store.all("worker")] == [
        ("a", {"of": "worker"}),
        ("b", {"of": "worker"}),
    ]
    store.delete("worker", "a", writer="o1")
    assert [record.id for record in store.all("rack")] == ["a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
bodies = st.none() | st.dictionaries(st.text(), json_values, max_size=3)


@given(st.lists(st.tuples(st.sampled_from("ab"), bodies)))
def test_after_any_history_each_record_is_what_was_said_last(
    history: list[tuple[str, dict[str, Any] | None]],
) -> None:
    directory = tempfile.TemporaryDirectory()
    store = Store(Path(directory.name) / "p.sqlite")
    expected: dict[str, tuple[int, bool, dict[str, Any]]] = {}
    for id, body in history:
        version, deleted, _ = expected.get(id, (0, True, {}))
        if body is not None:
            store.put("k", id, body, writer="w")
            expected[id] = (version + 1, False, body)
        else:
            store.delete("k", id, writer="w")
            expected |= {} if deleted else {id: (version + 1, True, {})}
    for id in "ab":
        found = store.get("k", id)
        assert (found and (found.version, found.deleted, found.body)) == expected.get(id)
    assert {record.id for record in store.all("k")} == {id for id in expected if not expected[id][1]}
    store.close()
    directory.cleanup()


def test_everything_is_there_again_after_a_restart_and_the_file_is_private(path: Path) -> None:
    store = Store(path)
    store.put("worker", "w1", {"name": "ä\x00\u2028"}, writer="o1")
    store.put("worker", "w2", {}, writer="o1")
    store.delete("worker", "w2", writer="o1")
    store.close()
    store.close()
    again = Store(path)
    assert [record.body for record in again.all("worker")] == [{"name": "ä\x00\u2028"}]
    assert again.put("worker", "w2", {}, writer="o1").version == 3
    again.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_put_survives_a_process_that_ends_without_closing(path: Path) -> None:
    store = Store(path)
    store.put("worker", "w1", {}, writer="o1")
    reader = Store(path)
    assert [record.id for record in reader.all("worker")] == ["w1"]
    reader.close()
    backup = sqlite3.connect(path)
    assert backup.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    backup.close()
    store.close()


# --- files that cannot be used


def damaged_in_the_middle(path: Path) -> None:
    store = Store(path)
    for number in range(200):
        store.put("worker", f"w{number}", {"x": "y" * 200}, writer="o1")
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 : 3 * 4096] = b"\xa5" * (2 * 4096)
    path.write_bytes(content)


def of_a_newer_version(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"this is no database, whatever its name says" * 100),
        lambda path: path.mkdir(),
        damaged_in_the_middle,
        of_a_newer_version,
    ],
    ids=["no database", "a directory", "damaged in the middle", "of a newer version"],
)
def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(spoil: Any, path: Path) -> None:
    spoil(path)
    with pytest.raises(StartError, match="move it away") as caught:
        Store(path)
    assert f"store {path} cannot be used (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file or directory"):
        Store(tmp_path / "none" / "p.sqlite")


def test_what_goes_wrong_later_is_an_error_of_ours(store: Store, path: Path) -> None:
    store.put("worker", "w1", {}, writer="o1")
    other = sqlite3.connect(path)
    other.execute("UPDATE records SET body = '{'")
    other.commit()
    other.execute("DROP TABLE records")
    with pytest.raises(Internal, match="the store failed"):
        store.all("worker")
    other.rollback()
    other.close()
    store.close()
    with pytest.raises(Internal, match="closed database"):
        store.get("worker", "w1")
