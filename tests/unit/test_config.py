"""Settings: the page itself, each source, how sources merge, and what a mistake is answered with.

The tables of bad values are made from the Structs, so a new setting is tested without a new line here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, inspect

from wrk_base.config import ORDERED, Section, Settings, schema
from wrk_base.errors import SettingsError
from wrk_base.settings_keys import Key, keys_of
from wrk_base.settings_loader import SHOWN, Loaded, load, show

CONFIG = Path(__file__).parents[2] / "config"
KEYS = list(keys_of(Settings))
DOTTED = [key.dotted for key in KEYS]


def settings(
    environ: Mapping[str, str] | None = None, *flags: tuple[str, str], files: Path | None = None, **more: Any
) -> Loaded:
    return load(config_dir=files, env="test", environ=environ or {}, flags=flags, **more)


def refusal(environ: Mapping[str, str] | None = None, *flags: tuple[str, str], **more: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(environ, *flags, **more)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(directory: Path, name: str, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / name).write_text(text)
    return directory


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def bare(key: Key) -> inspect.Type:
    info = key.info.type if isinstance(key.info, inspect.Metadata) else key.info
    if isinstance(info, inspect.UnionType):
        info = next(kind for kind in info.types if not isinstance(kind, inspect.NoneType))
    return info


# --- the page


def test_defaults_are_those_of_the_contract() -> None:
    builtins = msgspec.to_builtins(Settings())
    assert {name: value for name, value in builtins.items() if not isinstance(value, dict)} == {
        "debug": False,
        "port": 8003,
        "interface": "auto",
        "loadBalancingStrategy": "round-robin",
        "healthCheckInterval": 5000,
        "serviceDiscoveryInterval": 10000,
        "requestTimeout": 60000,
        "workerTimeout": 30000,
        "maxRetries": 3,
        "enableFailover": True,
        "maxWorkersPerModel": 0,
        "poolLinger": 300000,
    }
    assert builtins["rpc"]["port"] is None
    assert builtins["routing"]["queueLimit"] == 256
    assert builtins["stop"]["drainTimeout"] == 10000


def test_without_any_source_everything_is_the_default() -> None:
    loaded = settings()
    assert loaded.settings == Settings()
    assert loaded.section is None
    assert loaded.origins == dict.fromkeys(DOTTED, "default")


def test_every_default_is_one_of_its_allowed_values() -> None:
    for key in KEYS:
        key.accept(msgspec.to_builtins(key.value_in(Settings())))


@pytest.mark.parametrize("key", KEYS, ids=DOTTED)
def test_every_setting_says_what_it_is_and_every_number_is_bounded(key: Key) -> None:
    assert len(key.description) > 40
    info = bare(key)
    if isinstance(info, inspect.IntType | inspect.FloatType):
        assert info.ge is not None
        assert info.le is not None


def test_common_json_holds_every_setting_with_its_default() -> None:
    loaded = settings(files=CONFIG)
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {str(CONFIG / "common.json")}


def test_overlays_change_what_they_name_and_nothing_else() -> None:
    for env, overlaid in (
        ("development", {"debug"}),
        ("production", {"debug", "log.format", "log.level"}),
    ):
        loaded = load(config_dir=CONFIG, env=env, environ={}, flags=[])
        overlay = str(CONFIG / f"{env}.common.json")
        assert {key for key, origin in loaded.origins.items() if origin == overlay} == overlaid
    assert loaded.settings.log.format == "json"


def test_schema_json_is_made_from_the_structs() -> None:
    assert (CONFIG / "schema.json").read_text() == json.dumps(schema(), indent=2) + "\n"


def test_the_schema_carries_bounds_texts_and_defaults_and_admits_other_sections() -> None:
    definitions = schema()["$defs"]
    timeout = definitions["Settings"]["properties"]["requestTimeout"]
    assert (timeout["minimum"], timeout["maximum"], timeout["default"]) == (1, 86_400_000, 60_000)
    assert "Shorter frees callers" in timeout["description"]
    assert definitions["Settings"]["properties"]["debug"]["enum"] == [True, False, 1, 0]
    assert definitions["Settings"]["additionalProperties"] == {"type": "object"}
    assert definitions["RpcSettings"]["additionalProperties"] is False


# --- bad values, for every setting and from every source


@pytest.mark.parametrize("key", KEYS, ids=DOTTED)
def test_a_value_of_the_wrong_type_is_refused(key: Key, tmp_path: Path) -> None:
    wrong: tuple[Any, ...] = ({"no": None}, [[]], None)
    for value in wrong:
        if value is None and key.dotted == "rpc.port":
            continue  # null: by role
        write(tmp_path, "common.json", nested(key.path, value))
        message = refusal(files=tmp_path)
        assert message.startswith(f"{tmp_path / 'common.json'}: {key.dotted} = {value!r}: must be ")
    for message, source in (
        (refusal({key.env: " ?"}), f"environment {key.env}"),
        (refusal({}, (key.dotted, " ?")), f"flag --{key.dotted}"),
    ):
        assert message.startswith(f"{source}: {key.dotted} = ' ?': must be ")


def outside() -> list[tuple[Key, float]]:
    """For every number: just below and just above its range."""
    found: list[tuple[Key, float]] = []
    for key in KEYS:
        info = bare(key)
        if isinstance(info, inspect.IntType | inspect.FloatType):
            step = 1 if isinstance(info, inspect.IntType) else 0.001
            assert info.ge is not None
            assert info.le is not None
            found += [(key, info.ge - step), (key, info.le + step)]
    return found


@pytest.mark.parametrize(("key", "value"), outside(), ids=lambda item: getattr(item, "dotted", str(item)))
def test_a_number_out_of_range_is_refused_with_the_range(key: Key, value: float, tmp_path: Path) -> None:
    write(tmp_path, "test.common.json", nested(key.path, value))
    info: Any = bare(key)
    for message in (
        refusal(files=tmp_path),
        refusal({key.env: str(value)}),
        refusal({}, (key.dotted, str(value))),
    ):
        assert f"{key.dotted} = " in message
        assert f" from {info.ge:.15g} to {info.le:.15g}" in message


@pytest.mark.parametrize("key", KEYS, ids=DOTTED)
def test_the_default_spelt_as_text_is_read_back(key: Key) -> None:
    value = key.value_in(Settings())
    text = "" if value is None or value == [] else str(value)
    for loaded in (settings({key.env: text}), settings({}, (key.dotted, text))):
        assert loaded.settings == Settings()
        assert loaded.origins[key.dotted] in (f"environment {key.env}", f"flag --{key.dotted}")


def test_other_kinds_of_bad_text_are_refused_too() -> None:
    for name, text in (
        ("loadBalancingStrategy", "fastest"),
        ("requestTimeout", "1.5"),
        ("requestTimeout", ""),
        ("requestTimeout", "9" * 5000),
        ("health.flapHigh", "nan"),
        ("health.flapHigh", "inf"),
        ("debug", "2"),
        ("discovery.mesh", "a" * 64),
        ("discovery.mesh", "mesh\n"),
        ("interface", ""),
        ("discovery.peers", '["tcp://a:1"'),
        ("discovery.peers", '["tcp://a:1", 5]'),
    ):
        assert f"flag --{name}: {name} = " in refusal({}, (name, text)), (name, text)


def test_an_unknown_strategy_is_answered_with_the_list_of_strategies() -> None:
    message = refusal({"WRK_LOAD_BALANCING_STRATEGY": "fastest"})
    for name in ("round-robin", "least-connections", "weighted", "random", "power-of-two", "peak-ewma"):
        assert name in message


@given(st.sampled_from(KEYS), st.text(max_size=300))
def test_whatever_the_text_it_is_taken_or_refused_in_one_short_line(key: Key, text: str) -> None:
    try:
        loaded = settings({}, (key.dotted, text))
        answer = loaded.origins[key.dotted]
    except SettingsError as error:
        answer = str(error)
    assert answer.startswith(f"flag --{key.dotted}")
    assert answer.isprintable()
    assert len(answer) < 600


@pytest.mark.parametrize(
    "peer",
    [
        "tcp://10.0.0.1:8004",
        "tcp://gpu-1.lan:1",
        "tcp://h:65535#rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        "tcp://[fe80::1]:8004",
    ],
)
def test_static_peers_may_be_hosts_and_addresses_with_a_port_and_a_key(peer: str) -> None:
    loaded = settings({}, ("discovery.peers", f"tcp://a:1, {peer}"))
    assert loaded.settings.discovery.peers == ["tcp://a:1", peer]


@pytest.mark.parametrize(
    "peer",
    [
        "h:1",
        "tcp://:8004",
        "tcp://h",
        "tcp://h:0",
        "tcp://h:65536",
        "tcp://h:080",
        "udp://h:1",
        "tcp://h:1#",
        "tcp://h:1/x",
    ],
)
def test_a_malformed_static_peer_is_refused(peer: str) -> None:
    assert "tcp://host:port#KEY" in refusal({}, ("discovery.peers", peer))


@pytest.mark.parametrize(
    "server", ["http://gpu.lan", "https://gpu.lan:8443/llm/v1", "http://[::1]:8000", "http://10.0.0.1:1/"]
)
def test_model_servers_are_ports_and_urls(server: str) -> None:
    loaded = settings({}, ("modelServers.addresses", f"1, {server}, 65535"))
    assert loaded.settings.model_servers.addresses == [1, server, 65535]


@pytest.mark.parametrize(
    "server",
    [
        "0",
        "65536",
        "gpu.lan",
        "gpu.lan:8000",
        "ftp://gpu.lan",
        "http://",
        "http://a:0",
        "http://me@a",
        "http://a/?b",
    ],
)
def test_anything_else_is_no_place_for_a_model_server(server: str) -> None:
    message = refusal({}, ("modelServers.addresses", server))
    assert "an integer from 1 to 65535 or http(s)://host, with :port or /path or both" in message


def test_more_model_servers_than_are_asked_at_once_are_refused() -> None:
    many = ",".join(map(str, range(1, 66)))
    assert "a list of at most 64 items" in refusal({}, ("modelServers.addresses", many))


# --- sources and their order


def test_an_overlay_is_merged_over_the_base_file_and_never_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"port": 1, "rpc": {"port": 2, "maxPeers": 3}})
    write(tmp_path, "test.common.json", {"rpc": {"maxPeers": 4}})
    loaded = settings(files=tmp_path)
    assert (loaded.settings.port, loaded.settings.rpc.port, loaded.settings.rpc.max_peers) == (1, 2, 4)
    assert loaded.origins["rpc.port"] == str(tmp_path / "common.json")
    assert loaded.origins["rpc.maxPeers"] == str(tmp_path / "test.common.json")


def test_the_overlay_of_another_environment_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "production.common.json", {"port": 1})
    assert settings(files=tmp_path).settings.port == 8003


@pytest.mark.parametrize("given_by", range(16))
def test_a_later_source_wins_over_every_earlier_one(given_by: int, tmp_path: Path) -> None:
    chosen = [bool(given_by >> bit & 1) for bit in range(4)]
    environ: dict[str, str] = {}
    flags: list[tuple[str, str]] = []
    if chosen[0]:
        write(tmp_path, "common.json", {"rpc": {"maxPeers": 1}})
    if chosen[1]:
        write(tmp_path, "test.common.json", {"rpc": {"maxPeers": 2}})
    if chosen[2]:
        environ["WRK_RPC__MAX_PEERS"] = "3"
    if chosen[3]:
        flags.append(("rpc.maxPeers", "4"))
    loaded = settings(environ, *flags, files=tmp_path)
    expected = max((bit + 1 for bit in range(4) if chosen[bit]), default=4096)
    assert loaded.settings.rpc.max_peers == expected
    assert loaded.settings == msgspec.structs.replace(
        Settings(), rpc=msgspec.structs.replace(Settings().rpc, max_peers=expected)
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", False), ("1", True), ("true", True), ("False", False), ("yes", True), ("NO", False)],
)
def test_switches_are_read_from_the_usual_words(text: str, value: bool) -> None:
    assert settings({"WRK_DEBUG": text}).settings.debug is value


@pytest.mark.parametrize(("number", "value"), [(0, False), (1, True)])
def test_debug_may_be_0_or_1_in_a_file(number: int, value: bool, tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"debug": number})
    assert settings(files=tmp_path).settings.debug is value
    write(tmp_path, "common.json", {"debug": 2})
    assert "true or false (1 or 0)" in refusal(files=tmp_path)


@pytest.mark.parametrize("name", ["requestTimeout", "request-timeout", "request_timeout"])
def test_flags_may_be_spelt_in_camel_case_or_with_dashes(name: str) -> None:
    assert settings({}, (name, "5")).settings.request_timeout == 5


def test_flags_of_sections_have_a_dot_and_the_last_of_two_counts() -> None:
    loaded = settings({}, ("rpc.connect-timeout", "5"), ("rpc.connectTimeout", "6"))
    assert loaded.settings.rpc.connect_timeout == 6


def test_an_optional_value_may_be_taken_back_by_an_empty_text(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"rpc": {"port": 9}})
    assert settings({"WRK_RPC__PORT": ""}, files=tmp_path).settings.rpc.port is None


def test_a_list_is_one_value_given_with_commas_or_as_json() -> None:
    for text in ("tcp://a:1,tcp://b:2", '["tcp://a:1", "tcp://b:2"]'):
        assert settings({"WRK_DISCOVERY__PEERS": text}).settings.discovery.peers == ["tcp://a:1", "tcp://b:2"]
    assert settings({"WRK_DISCOVERY__PEERS": ""}).settings.discovery.peers == []


def test_variables_that_say_what_to_run_and_those_of_others_are_no_settings() -> None:
    reserved = {"WRK_CONFIG": "/x", "WRK_STATE_DIR": "/x", "WRK_ENV": "test", "WRK_RACK": "r"}
    others = {"WRK_TEST_X": "1", "PATH": "/bin", "WRKX": "1"}
    assert settings({**reserved, **others}).settings == Settings()


@pytest.mark.parametrize("env", ["prod", "", "Production", "../x"])
def test_only_the_four_environments_exist(env: str) -> None:
    with pytest.raises(SettingsError, match="one of development, production, staging, test"):
        load(config_dir=None, env=env, environ={}, flags=[])


# --- unknown names


def test_an_unknown_key_in_a_file_is_answered_with_the_closest_one_and_the_list(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"requestTimeot": 5})
    message = refusal(files=tmp_path)
    assert message.startswith(f"{tmp_path / 'common.json'}: requestTimeot = 5: no such setting; ")
    assert "did you mean requestTimeout" in message
    assert "Allowed: debug, port, " in message
    write(tmp_path, "common.json", {"rpc": {"prot": 5}})
    assert "rpc.prot = 5: no such setting; did you mean rpc.port" in refusal(files=tmp_path)
    assert "Allowed in rpc: port, connectTimeout, " in refusal(files=tmp_path)


def test_an_unknown_variable_or_flag_is_answered_in_its_own_spelling() -> None:
    message = refusal({"WRK_RPC__PROT": "5"})
    assert message.startswith("environment WRK_RPC__PROT: rpc.prot = '5': no such setting; did you mean ")
    assert "did you mean WRK_RPC__PORT" in message
    assert "Allowed in rpc: port, " in message
    message = refusal({}, ("rpc.prot", "5"))
    assert message.startswith("flag --rpc.prot: rpc.prot = '5': no such setting; did you mean --rpc.port")


def test_a_right_name_in_the_wrong_section_is_recognised() -> None:
    assert "did you mean --stop.drainTimeout" in refusal({}, ("drain-timeout", "5"))


def test_nothing_similar_means_no_suggestion() -> None:
    assert "did you mean" not in refusal({}, ("qqqqqqqqqq", "5"))


def test_a_section_is_no_value_and_a_value_is_no_section(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"rpc": 5})
    assert "rpc = 5: must be an object. Allowed in rpc: port, " in refusal(files=tmp_path)
    write(tmp_path, "common.json", {"port": {"x": 1}})
    assert "port = {'x': 1}: must be an integer" in refusal(files=tmp_path)
    write(tmp_path, "common.json", {"rpc.port": 5})
    assert "rpc.port = 5: no such setting" in refusal(files=tmp_path)
    assert "no such setting" in refusal({"WRK_RPC": "5"})
    assert "no such setting" in refusal({}, ("rpc", "5"))


def test_long_and_strange_names_and_values_are_shortened(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"x" * 10_000: "y" * 10_000})
    assert len(refusal(files=tmp_path)) < 3 * SHOWN + 400
    write(tmp_path, "common.json", {"a\nb": 1})
    assert "'a\\nb' = 1" in refusal(files=tmp_path)


# --- broken files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{\n "port": 1,\n}', "line 3: not valid JSON"),
        ("", "line 1: not valid JSON"),
        ("[]", "line 1: must hold a JSON object, not []"),
        ('{"port": NaN}', "NaN is no JSON number"),
        ("[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_a_broken_file_is_named_with_the_line(content: str, expected: str, tmp_path: Path) -> None:
    write(tmp_path, "common.json", content)
    message = refusal(files=tmp_path)
    assert message.startswith(str(tmp_path / "common.json"))
    assert expected in message


def test_a_file_that_is_no_text_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "common.json").write_bytes(b'{\n"a": "\xff"}')
    assert "common.json, line 2: not valid UTF-8" in refusal(files=tmp_path)
    (tmp_path / "common.json").unlink()
    (tmp_path / "common.json").mkdir()
    assert "common.json: cannot be read: Is a directory" in refusal(files=tmp_path)


def test_missing_directories_and_files_are_no_error(tmp_path: Path) -> None:
    assert settings(files=tmp_path / "none").settings == Settings()
    write(tmp_path, "common.json", '\ufeff{"$schema": "schema.json"}')
    assert settings(files=tmp_path).settings == Settings()


# --- settings that bound each other


@pytest.mark.parametrize(("low", "relation", "high"), ORDERED, ids=[row[0] for row in ORDERED])
def test_pairs_that_contradict_each_other_are_refused_with_both_sources(
    low: str, relation: str, high: str, tmp_path: Path
) -> None:
    by_name = {key.dotted: key for key in KEYS}
    bound = by_name[high].value_in(Settings())
    write(tmp_path, "common.json", nested(high.split("."), bound))
    above = bound + 1 if isinstance(bound, int) else bound + 0.1
    message = refusal({}, (low, str(above)), files=tmp_path)
    assert message.startswith(f"flag --{low}: {low} = ")
    assert message.endswith(f"must be {relation} {high} = {bound} ({tmp_path / 'common.json'})")
    lowest = by_name[low].value_in(Settings())
    below = lowest - 1 if isinstance(lowest, int) else lowest - 0.1
    message = refusal({}, (high, str(below)))
    assert message.startswith(f"flag --{high}: {high} = ")
    assert message.endswith(f" {low} = {lowest} (default)")
    if relation == "at most":
        settings({}, (low, str(bound)))
    else:
        assert f"must be below {high}" in refusal({}, (low, str(bound)))


# --- the section of a worker class


class Tone(Enum):
    WARM = "warm"
    COLD = "cold"


class Inner(Section, frozen=True):
    """A section inside a section."""

    max_depth: int = 1


class OwnSettings(Section, frozen=True):
    """What an author may write: every kind of field."""

    latency: Annotated[int, Meta(ge=0, lt=1000)] = 5
    models: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["m1"]
    )
    weights: dict[str, int] = {}
    tags: frozenset[str] = frozenset()
    sizes: tuple[int, ...] = ()
    path: str | None = None
    ratio: Annotated[float, Meta(gt=0)] = 1.0
    tone: Tone = Tone.WARM
    bits: Annotated[int | None, Meta(description="How many.")] = None
    port: int = 0
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.latency == 13:
            raise ValueError("latency 13 is unlucky")


class NeedySettings(msgspec.Struct):
    """A section with a field that has no default."""

    model_path: str


def own(environ: Mapping[str, str] | None = None, *flags: tuple[str, str], files: Path | None = None) -> Any:
    return settings(environ, *flags, files=files, section="sim", section_type=OwnSettings).section


def test_the_own_section_comes_from_every_source(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"sim": {"latency": 1, "inner": {"maxDepth": 2}}})
    assert own(files=tmp_path) == OwnSettings(latency=1, inner=Inner(2))
    assert own({"WRK_SIM__LATENCY": "2", "WRK_SIM__INNER__MAX_DEPTH": "3"}, files=tmp_path) == OwnSettings(
        latency=2, inner=Inner(3)
    )
    assert own({"WRK_SIM__LATENCY": "2"}, ("latency", "3"), files=tmp_path).latency == 3
    flags = (("sim.latency", "4"), ("sim.inner.max-depth", "5"))
    assert own({}, *flags) == OwnSettings(latency=4, inner=Inner(5))


def test_a_flag_without_a_dot_is_a_setting_of_every_process_first() -> None:
    loaded = settings({}, ("port", "9"), ("models", "a,b"), section="sim", section_type=OwnSettings)
    assert loaded.settings.port == 9
    assert loaded.section == OwnSettings(models=["a", "b"])
    assert loaded.origins["sim.models"] == "flag --models"
    assert loaded.origins["sim.latency"] == "default"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("models", "m1, m2", ["m1", "m2"]),
        ("weights", "a=1, b=2", {"a": 1, "b": 2}),
        ("weights", '{"a": 1}', {"a": 1}),
        ("weights", "", {}),
        ("tags", "x,y,x", frozenset({"x", "y"})),
        ("sizes", "1,2", (1, 2)),
        ("path", "", None),
        ("path", "/x", "/x"),
        ("ratio", "2", 2.0),
        ("tone", "cold", Tone.COLD),
        ("bits", "8", 8),
        ("bits", "", None),
    ],
)
def test_texts_become_values_of_the_fields_type(name: str, text: str, value: Any) -> None:
    assert getattr(own({}, (name, text)), name) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("latency", "1000", "must be an integer of at least 0 and below 1000"),
        ("models", "", "must be a list of at least 1 items, each text of at least 1 characters"),
        ("weights", "a", "must be a map of names to values, each an integer"),
        ("weights", "a=b", "must be a map"),
        ("sizes", "1,x", "must be a list, each an integer"),
        ("ratio", "0", "must be a number above 0"),
        ("tone", "hot", "must be one of warm, cold"),
        ("bits", "many", "must be an integer or null"),
    ],
)
def test_bad_values_of_the_own_section_say_what_is_allowed(name: str, text: str, expected: str) -> None:
    message = refusal({}, (name, text), section="sim", section_type=OwnSettings)
    assert message.startswith(f"flag --{name}: sim.{name} = {text!r}: ")
    assert expected in message


def test_a_rule_of_the_own_section_and_a_missing_value_stop_the_start() -> None:
    assert "section sim: latency 13 is unlucky" in refusal(
        {}, ("latency", "13"), section="sim", section_type=OwnSettings
    )
    message = refusal(section="rag", section_type=NeedySettings)
    ways = "a settings file, WRK_RAG__MODEL_PATH or --rag.model_path"
    assert message == f"rag.model_path: must be given by {ways}; it has no default"
    given = settings({}, ("model-path", "/m"), section="rag", section_type=NeedySettings)
    assert given.section.model_path == "/m"  # type: ignore[union-attr]


def test_unknown_keys_of_the_own_section_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"sim": {"latncy": 1}})
    message = refusal(files=tmp_path, section="sim", section_type=OwnSettings)
    assert "sim.latncy = 1: no such setting; did you mean sim.latency" in message
    assert "Allowed in sim: latency, models, " in message


def test_sections_of_other_classes_are_passed_over_only_when_they_are_known(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"sim": {"whatever": 1}, "port": 5})
    environ = {"WRK_SIM__WHATEVER": "1"}
    assert settings(environ, files=tmp_path, known_sections=("sim", "rag")).settings.port == 5
    assert "sim = {'whatever': 1}: no such setting" in refusal(files=tmp_path)
    assert "WRK_SIM__WHATEVER" in refusal(environ)
    assert "no such setting" in refusal({}, ("sim.whatever", "1"), known_sections=("sim",))
    assert "no such setting" in refusal({"WRK_SIM": "1"}, known_sections=("sim",))
    write(tmp_path, "common.json", {"sim": 5})
    assert "no such setting" in refusal(files=tmp_path, known_sections=("sim",))
    write(tmp_path, "common.json", {"sim": {"latncy": 1}})
    own: dict[str, Any] = {"section": "sim", "section_type": OwnSettings, "known_sections": ("sim",)}
    assert "no such setting" in refusal(files=tmp_path, **own)
    assert "no such setting" in refusal(environ, **own)


def test_a_class_cannot_take_the_name_of_a_common_section() -> None:
    assert "section rpc: the name is taken" in refusal(section="rpc", section_type=OwnSettings)


# --- --show-config


def test_show_prints_every_setting_with_its_value_text_and_origin(tmp_path: Path) -> None:
    write(tmp_path, "common.json", {"rpc": {"port": 9}})
    loaded = settings(
        {"WRK_SIM__TONE": "cold"},
        ("models", "ä"),
        files=tmp_path,
        section="sim",
        section_type=OwnSettings,
    )
    lines = show(loaded).splitlines()
    values = [line for line in lines if not line.startswith("# ")]
    assert len(values) == len(loaded.origins)
    assert f"rpc.port = 9   # {tmp_path / 'common.json'}" in values
    assert 'sim.tone = "cold"   # environment WRK_SIM__TONE' in values
    assert 'sim.models = ["ä"]   # flag --models' in values
    assert "debug = false   # default" in values
    assert lines[lines.index("debug = false   # default") - 1].startswith("# Log at debug level")
    sections = [line.split(" = ")[0].rpartition(".")[0] for line in values]
    assert sections == sorted(sections)
