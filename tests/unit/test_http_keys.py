"""Keys of the HTTP service: how they look, what is kept of them, files, and where they are needed."""

from __future__ import annotations

import stat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog import get_logger
from structlog.testing import capture_logs

from wrk_base import errors
from wrk_base.config import HttpSettings
from wrk_base.errors import StartError
from wrk_orchestrator.http import api_keys, exposure, tls
from wrk_orchestrator.http.api_keys import ApiKey, Bucket
from wrk_orchestrator.http.key_files import LOOK_S, KeyFile, LiveKeys, admin_key


def kept(name: str, **more: Any) -> ApiKey:
    return api_keys.entry(api_keys.made_of(name.encode().ljust(32, b".")[:32]), name, 5, **more)


# --- what is kept


def test_a_key_has_its_prefix_and_256_bits() -> None:
    key = api_keys.made_of(bytes(range(32)))
    assert key == "sk-wrk-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


def test_what_is_kept_holds_no_key_and_finds_its_holder() -> None:
    keys = [kept("alice"), kept("bob", models=["m1"], rate=5)]
    text = api_keys.written(keys)
    assert b"sk-wrk" not in text
    assert api_keys.parse(text) == tuple(keys)
    assert api_keys.holder(keys, api_keys.made_of(b"bob".ljust(32, b".")).encode()) == keys[1]
    assert api_keys.holder(keys, b"") is None
    assert "sha256" not in keys[0].facts()


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 64, "ä", "a\n"])
def test_a_name_is_one_that_can_be_typed(name: str) -> None:
    with pytest.raises(ValueError):
        kept(name)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"keys":[{"name":"a"}]}',
        b'{"keys":[{"name":"a","sha256":"x","created":1}]}',
        b'{"keys":[],"more":1}',
        msgspec.json.encode(api_keys.Kept([kept("a"), kept("a")])),
        msgspec.json.encode({"keys": [{**msgspec.to_builtins(kept("a")), "admin": True}]}),
        b'{"keys":' + b"[" * 100_000,
    ],
)
def test_a_file_that_is_not_understood_is_damaged(text: bytes, tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    file.path.touch(0o600)
    file.path.write_bytes(text)
    with pytest.raises(StartError, match="damaged"):
        file.read()


# --- how often


@pytest.mark.parametrize(("rate", "until_next"), [(1, 60.0), (60, 1.0), (6000, 0.01)])
def test_a_minutes_worth_at_once_and_then_as_it_grows_back(rate: int, until_next: float) -> None:
    bucket = Bucket(rate, 100.0)
    assert [bucket.take(rate, 100.0) for _ in range(rate)] == [0.0] * rate
    assert bucket.take(rate, 100.0) == pytest.approx(until_next)
    assert bucket.take(rate, 100.0 + until_next * 0.9) > 0
    assert bucket.take(rate, 100.0 + until_next * 1.01) == 0
    assert bucket.take(rate, 100.0 + until_next * 1.02) > 0


@given(st.integers(1, 1000), st.lists(st.floats(-5, 30), max_size=200))
def test_whatever_the_clock_does_no_more_pass_than_the_rate_allows(rate: int, steps: list[float]) -> None:
    bucket, now, passed, gone = Bucket(rate, 0.0), 0.0, 0, 0.0
    for step in steps:
        now, gone = now + step, gone + max(0.0, step)
        passed += bucket.take(rate, now) == 0
    assert passed <= rate + gone * rate / 60 + 1


# --- files


def test_the_admin_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    made = admin_key(tmp_path)
    assert len(made) == 43
    assert admin_key(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600
    assert admin_key(tmp_path / ".") == made


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_an_admin_key_that_others_can_read_stops_the_start_with_what_to_do(mode: int, tmp_path: Path) -> None:
    made = admin_key(tmp_path)
    (tmp_path / "admin.key").chmod(mode)
    with pytest.raises(StartError) as caught:
        admin_key(tmp_path)
    assert f"chmod 600 {tmp_path / 'admin.key'}" in str(caught.value)
    assert made.decode() not in str(caught.value)


@pytest.mark.parametrize("text", ["", "short", "x" * 44, "=" * 43])
def test_an_admin_key_that_is_none_stops_the_start(text: str, tmp_path: Path) -> None:
    admin_key(tmp_path)
    (tmp_path / "admin.key").write_text(text)
    with pytest.raises(StartError, match="remove it, and the next start makes a new one"):
        admin_key(tmp_path)


def test_keys_are_added_and_removed_by_name(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    assert file.read() == ()
    file.add(kept("alice"))
    file.add(kept("bob"))
    with pytest.raises(errors.BadRequest, match="'bob'"):
        file.add(kept("bob"))
    file.remove("alice")
    assert [key.name for key in file.read()] == ["bob"]
    with pytest.raises(errors.NotFound):
        file.remove("alice")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def _add_some(state_dir: Path, who: int) -> None:
    for number in range(10):
        KeyFile(state_dir).add(kept(f"key-{who}-{number}"))


def test_writers_take_turns(tmp_path: Path) -> None:
    spawn = get_context("spawn")
    writers = [spawn.Process(target=_add_some, args=(tmp_path, who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(KeyFile(tmp_path).read()) == 30


def test_a_live_server_sees_what_changes_after_a_moment(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    live = LiveKeys(file, get_logger())
    assert live(10.0) == ()
    file.add(kept("alice"))
    assert live(10.0 + LOOK_S / 2) == ()
    seen = live(10.0 + LOOK_S)
    assert [key.name for key in seen] == ["alice"]
    assert live(20.0) is seen
    file.remove("alice")
    assert live(20.0 + LOOK_S) == ()
    file.path.unlink()
    assert live(30.0) == ()


def test_a_file_that_cannot_be_read_any_more_opens_nothing(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    file.add(kept("alice"))
    live = LiveKeys(file, get_logger())
    assert len(live(0.0)) == 1
    file.path.chmod(0o644)
    with capture_logs() as logs:
        assert live(1.0) == ()
        assert live(2.0) == ()
    assert [event["event"] for event in logs] == ["http.keys_unreadable"]
    file.path.chmod(0o600)
    assert len(live(3.0)) == 1


# --- where it may listen

LAN = "192.0.2.7"
TLS = {"tls_certificate": "c.pem", "tls_key": "k.pem"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1"])
def test_on_this_machine_nothing_is_needed(host: str) -> None:
    assert exposure.check(host, HttpSettings(), have_keys=False) == []
    assert exposure.check(host, HttpSettings(**TLS), have_keys=True) == []
    assert not exposure.wants_keys(host, HttpSettings())


def test_on_the_network_keys_and_tls_are() -> None:
    assert exposure.check(LAN, HttpSettings(**TLS), have_keys=True) == []
    assert exposure.wants_keys(LAN, HttpSettings())
    with pytest.raises(StartError) as caught:
        exposure.check(LAN, HttpSettings(), have_keys=False)
    said = str(caught.value)
    assert "\n" not in said
    for remedy in ("wrk key add NAME", "--http.withoutKeys", "--http.tlsCertificate", "--http.withoutTls"):
        assert remedy in said


def test_each_is_waived_by_its_own_setting_alone_and_that_is_told() -> None:
    with pytest.raises(StartError, match="TLS") as caught:
        exposure.check(LAN, HttpSettings(without_keys=True), have_keys=False)
    assert "wrk key add" not in str(caught.value)
    with pytest.raises(StartError, match="wrk key add") as caught:
        exposure.check(LAN, HttpSettings(without_tls=True), have_keys=False)
    assert "TLS" not in str(caught.value)
    both = HttpSettings(without_keys=True, without_tls=True)
    told = [waived.event for waived in exposure.check(LAN, both, have_keys=False)]
    assert told == ["http.without_keys", "http.without_tls"]
    assert not exposure.wants_keys(LAN, both)


def test_one_half_of_a_certificate_is_a_mistake_anywhere() -> None:
    for half in ({"tls_certificate": "c.pem"}, {"tls_key": "k.pem"}):
        with pytest.raises(StartError, match="together"):
            exposure.check("127.0.0.1", HttpSettings(**half), have_keys=False)


def test_files_for_tls_that_cannot_be_used_are_named_with_their_setting(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    settings = HttpSettings(tls_certificate=str(certificate), tls_key=str(key))
    assert tls.server_context(HttpSettings()) is None
    for missing, setting in ((certificate, "http.tlsCertificate"), (key, "http.tlsKey")):
        with pytest.raises(StartError, match=f"{setting}: .* cannot be read"):
            tls.server_context(settings)
        missing.write_text("nonsense")
    key.chmod(0o640)
    with pytest.raises(StartError, match=rf"http.tlsKey: .*chmod 600 {key}"):
        tls.server_context(settings)
    key.chmod(0o600)
    with pytest.raises(StartError, match="both are PEM"):
        tls.server_context(settings)
