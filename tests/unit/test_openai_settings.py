"""Where the upstream is and which key it takes: what people write, and what is never shown."""

from __future__ import annotations

import pytest

from racks.openai_settings import OpenAISettings, secret_of
from racks.origin import Origin, parse_origin
from wrk_base.errors import SettingsError, StartError
from wrk_base.settings_loader import load, show

SECRET = "sk-very-secret-1"


def settings_of(*flags: tuple[str, str]) -> OpenAISettings:
    loaded = load(
        config_dir=None, env="test", environ={}, flags=flags, section="openai", section_type=OpenAISettings
    )
    assert isinstance(loaded.section, OpenAISettings)
    show(loaded)
    return loaded.section


@pytest.mark.parametrize(
    ("url", "origin", "shown"),
    [
        ("http://localhost:11434", (False, "localhost", 11434, ""), "http://localhost:11434"),
        ("http://localhost:1234/v1/", (False, "localhost", 1234, ""), "http://localhost:1234"),
        ("https://api.example.com", (True, "api.example.com", 443, ""), "https://api.example.com"),
        ("https://example.com/proxy/v1", (True, "example.com", 443, "/proxy"), "https://example.com/proxy"),
        ("http://[::1]:8000/", (False, "::1", 8000, ""), "http://[::1]:8000"),
        ("HTTP://Host", (False, "host", 80, ""), "http://host"),
    ],
)
def test_a_url_as_people_write_it(url: str, origin: tuple[bool, str, int, str], shown: str) -> None:
    found = parse_origin(url)
    assert found == Origin(*origin)
    assert found.url == shown


@pytest.mark.parametrize(
    "url",
    [
        "localhost:11434",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://host:port",
        "http://host/?a=1",
        "http://host/#a",
        "http://ho st",
        "http://host\r\nx: y",
        "http://host\\@other",
        "http://h\u00f6st",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_origin_is_refused_with_what_is_one(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        parse_origin(url)


@pytest.mark.parametrize("url", [f"http://user:{SECRET}@host", f"https://{SECRET}@host:1"])
def test_a_url_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsError, match="apiKeyEnv") as refused:
        settings_of(("upstream", url))
    assert SECRET not in str(refused.value)
    assert str(refused.value).startswith("section openai: upstream:")


def test_the_key_comes_from_the_environment_by_its_name() -> None:
    settings = settings_of(("apiKeyEnv", "MY_KEY"))
    assert secret_of(settings, {"MY_KEY": f" {SECRET}\n"}) == SECRET
    assert secret_of(OpenAISettings(), {"MY_KEY": SECRET}) == ""


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "line\r\nbreak", "\u00e9"])
def test_a_key_that_is_none_stops_the_start_and_is_not_shown(value: str | None) -> None:
    environ = {} if value is None else {"MY_KEY": value}
    with pytest.raises(StartError, match="MY_KEY") as refused:
        secret_of(OpenAISettings(api_key_env="MY_KEY"), environ)
    assert "words" not in str(refused.value)


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("apiKeyEnv", "sk-1234", "the name of a variable"),
        ("maxConcurrent", "-1", "an integer from 0"),
        ("refreshInterval", "5", "from 100"),
        ("pollTimeout", "0", "from 10"),
        ("pollFailures", "0", "from 1"),
        ("connectTimeout", "1", "from 10"),
        ("silenceTimeout", "1", "from 100"),
    ],
)
def test_a_flag_out_of_range_is_refused_with_what_is_allowed(flag: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings_of((flag, value))
    assert allowed in str(refused.value)
