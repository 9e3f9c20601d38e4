"""Who is let in: what a web page in a browser here can send and is refused for, and what keys open.

Where no key is asked for, the pages are the enemy; where one is, everybody without one.
"""

from __future__ import annotations

from typing import Any

import pytest

from wrk_base import errors
from wrk_orchestrator.http import api_keys
from wrk_orchestrator.http.api_keys import ApiKey
from wrk_orchestrator.http.errors import WrongHost
from wrk_orchestrator.http.gate import Caller, Gate
from wrk_orchestrator.model_names import ModelNames

ADMIN = b"A" * 43
STATUS = "/api/status"
REGISTER = "/api/workers/register"
PORT = 8003


def scope(method: str = "GET", scheme: str = "http", **headers: str) -> dict[str, Any]:
    """A request; `sec_fetch_site` is the header sec-fetch-site."""
    given = {"host": "localhost", **headers}
    named = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given.items()]
    return {"method": method, "scheme": scheme, "server": ("127.0.0.1", PORT), "headers": named}


def local(*names: str) -> Gate:
    return Gate(ADMIN, ("127.0.0.1", *names), keys=None)


def key_of(name: str, **more: Any) -> tuple[str, ApiKey]:
    key = api_keys.made_of(name.encode().ljust(32, b"."))
    return key, api_keys.entry(key, name, 0, **more)


def refusal(gate: Gate, request: dict[str, Any], path: str = STATUS, now: float = 0.0) -> errors.WrkError:
    with pytest.raises(errors.WrkError) as caught:
        gate.admit(request, path, now)
    return caught.value


# --- where no key is asked for


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8003",
        "LocalHost.",
        "127.0.0.1",
        "127.0.0.1:9000",
        "[::1]:8003",
        "gpu-box.local:1",
    ],
)
def test_it_is_called_by_its_own_names_whatever_the_port(host: str) -> None:
    assert local("GPU-box.local").admit(scope(host=host), STATUS, 0) == Caller()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example:8003",
        "127.0.0.2",
        "2130706433",
        "0.0.0.0",
        "[::]",
        "::1",
        "localhost:80:80",
        "localhost, evil.example",
        "",
        "x" * 5000,
    ],
)
def test_any_other_name_may_be_one_that_was_lent_our_address(host: str) -> None:
    error = refusal(local(), scope(host=host))
    assert isinstance(error, WrongHost)
    assert "http.allowedHosts" in error.message
    assert len(error.message) < 300


def test_a_request_has_one_host() -> None:
    two = scope()
    two["headers"].append((b"host", b"evil.example"))
    none = {**scope(), "headers": []}
    for request in (two, none):
        assert isinstance(refusal(local(), request), errors.BadRequest)
        assert isinstance(refusal(with_keys(), request), errors.BadRequest)


@pytest.mark.parametrize("origin", ["http://localhost:8003", "http://127.0.0.1:8003", "http://[::1]:8003"])
def test_its_own_page_may_call_it(origin: str) -> None:
    local().admit(scope("POST", origin=origin, sec_fetch_site="same-origin"), STATUS, 0)


def test_a_default_port_is_not_written_down() -> None:
    request = {**scope("POST", origin="http://localhost"), "server": ("127.0.0.1", 80)}
    local().admit(request, STATUS, 0)
    request = {**scope("POST", "https", origin="https://localhost"), "server": ("127.0.0.1", 443)}
    local().admit(request, STATUS, 0)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://evil.example:8003",
        "http://localhost:3000",
        "http://localhost",
        "https://localhost:8003",
        "http://localhost:8003.evil.example",
        "http://localhost:8003/",
        "file://",
        "chrome-extension://abcdef",
        "",
    ],
)
def test_pages_of_others_may_not(origin: str) -> None:
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        assert isinstance(refusal(local(), scope(method, origin=origin)), errors.PermissionDenied)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "odd"])
def test_nor_have_a_browser_fetch_an_image_of_it(site: str) -> None:
    fetched = {"sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}
    framed = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    for how in (fetched, framed):
        error = refusal(local(), scope(sec_fetch_site=site, **how))
        assert isinstance(error, errors.PermissionDenied)


def test_a_person_may_follow_a_link_to_its_page() -> None:
    visit = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    local().admit(scope(sec_fetch_site="cross-site", **visit), "/docs", 0)
    local().admit(scope(sec_fetch_site="none", **visit), "/docs", 0)
    refusal(local(), scope("POST", sec_fetch_site="cross-site", **visit), "/docs")  # a form


def test_a_key_that_a_client_sends_anyway_is_ignored() -> None:
    assert local().admit(scope(authorization="Bearer sk-anything"), STATUS, 0) == Caller()


# --- the admin key


@pytest.mark.parametrize(
    "shown",
    [
        {"authorization": f"Bearer {ADMIN.decode()}"},
        {"authorization": f"bearer  {ADMIN.decode()}"},
        {"x_wrk_admin_key": ADMIN.decode()},
        {"x_wrk_admin_key": ADMIN.decode(), "authorization": "Bearer sk-wrk-other"},
    ],
)
def test_the_admin_key_is_shown_in_either_header(shown: dict[str, str]) -> None:
    caller = local().admit(scope("POST", **shown), REGISTER, 0)
    assert caller.admin
    caller.check_admin()
    assert with_keys().admit(scope("POST", **shown), REGISTER, 0).admin


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": ADMIN.decode()},
        {"authorization": f"Basic {ADMIN.decode()}"},
        {"authorization": f"Bearer {ADMIN.decode()}A"},
        {"x_wrk_admin_key": ""},
        {"x_wrk_admin_key": ADMIN.decode()[:-1]},
        {"x_wrk_admin_key": "é"},
    ],
)
def test_without_it_one_is_told_where_it_lies(shown: dict[str, str]) -> None:
    caller = local().admit(scope("POST", **shown), REGISTER, 0)
    with pytest.raises(errors.Unauthenticated) as caught:
        caller.check_admin()
    assert "it lies in admin.key of the state directory of the orchestrator" in caught.value.message
    assert "/" not in caught.value.message


def test_it_opens_nothing_but_the_registry_where_keys_are_asked_for() -> None:
    shown = {"x_wrk_admin_key": ADMIN.decode()}
    assert isinstance(refusal(with_keys(), scope(**shown), STATUS), errors.Unauthenticated)
    assert isinstance(refusal(with_keys(), scope("POST", **shown), "/v1/chat"), errors.Unauthenticated)


# --- API keys

ALICE, ALICES = key_of("alice")
BOB, BOBS = key_of("bob", models=["m1", "m2"], rate=3)
NAMES = ModelNames({"gpt": "m1", "alias-of-m3": "m3"}, {"m1": ["m3", "m2"], "m3": ["m1"]})


def with_keys(*keys: ApiKey) -> Gate:
    return Gate(ADMIN, (), keys=lambda _: keys)


def test_a_key_opens_everything_but_the_registry() -> None:
    gate = with_keys(ALICES, BOBS)
    caller = gate.admit(scope(authorization=f"Bearer {ALICE}"), STATUS, 0)
    assert caller == Caller(key=ALICES)
    assert caller.models_for("any", NAMES) is None
    with pytest.raises(errors.Unauthenticated):
        caller.check_admin()


def test_with_a_key_it_is_called_by_any_name() -> None:
    with_keys(ALICES).admit(scope(host="gpu.example", authorization=f"Bearer {ALICE}"), STATUS, 0)


def test_all_that_is_wrong_with_a_key_is_answered_alike() -> None:
    gate = with_keys(ALICES)
    shown = [
        {},
        {"authorization": ""},
        {"authorization": f"Bearer {BOB}"},
        {"authorization": f"Bearer {ALICE}x"},
        {"authorization": f"Bearer {ALICE.upper()}"},
        {"authorization": f"Basic {ALICE}"},
        {"authorization": ALICE},
        {"authorization": f"Bearer {ALICES.sha256}"},
        {"x_api_key": ALICE},
    ]
    told = {(type(error), error.message) for error in (refusal(gate, scope(**headers)) for headers in shown)}
    assert told == {(errors.Unauthenticated, "this takes an API key, as authorization: Bearer KEY")}
    twice = scope(authorization=f"Bearer {ALICE}")
    twice["headers"].append((b"authorization", b"Bearer x"))
    assert isinstance(refusal(gate, twice), errors.Unauthenticated)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_who_watches_the_process_needs_no_key(path: str) -> None:
    for method in ("GET", "HEAD"):
        assert with_keys().admit(scope(method, host="any"), path, 0) == Caller()
    assert isinstance(refusal(with_keys(), scope("POST"), path), errors.Unauthenticated)


def test_a_key_for_some_models_names_the_one_that_it_is_not_for() -> None:
    caller = Caller(key=BOBS)
    assert caller.models_for("m2", NAMES) == ("m2",)
    assert caller.models_for(None, NAMES) is None  # for others to refuse
    with pytest.raises(errors.PermissionDenied) as caught:
        caller.models_for("m3", NAMES)
    assert "'m3'" in caught.value.message
    assert caught.value.data == {"field": "modelId"}


def test_a_key_for_some_models_knows_them_by_any_name_and_gets_no_other_by_a_fallback() -> None:
    caller = Caller(key=BOBS)
    assert caller.models_for("gpt", NAMES) == ("m1", "m2")
    with pytest.raises(errors.PermissionDenied):
        caller.models_for("alias-of-m3", NAMES)
    by_alias = Caller(key=key_of("carol", models=["alias-of-m3"])[1])
    assert by_alias.models_for("m3", NAMES) == by_alias.models_for("alias-of-m3", NAMES) == ("m3",)


def test_a_rate_is_kept_and_told_when_to_come_again() -> None:
    gate, asked = with_keys(ALICES, BOBS), scope(authorization=f"Bearer {BOB}")
    for _ in range(3):
        gate.admit(asked, STATUS, 100)
    error = refusal(gate, asked, now=105)
    assert isinstance(error, errors.CapacityExceeded)
    assert 14_990 < (error.retry_after_ms or 0) <= 15_001
    gate.admit(scope(authorization=f"Bearer {ALICE}"), STATUS, 105)
    gate.admit(asked, STATUS, 120.1)
    refusal(gate, asked, now=120.2)


def test_another_key_comes_and_goes_without_a_gift_to_this_one() -> None:
    now_there: list[tuple[ApiKey, ...]] = [(BOBS,)]
    gate, asked = Gate(ADMIN, (), keys=lambda _: now_there[0]), scope(authorization=f"Bearer {BOB}")
    for _ in range(3):
        gate.admit(asked, STATUS, 0)
    now_there[0] = (BOBS, ALICES)
    assert isinstance(refusal(gate, asked), errors.CapacityExceeded)
    now_there[0] = (ALICES,)
    assert isinstance(refusal(gate, asked), errors.Unauthenticated)
