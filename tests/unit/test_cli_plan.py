"""What `wrk up` starts, and which of the settings on its command line reach whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrk_base.boot import UsageError
from wrk_base.errors import SettingsError
from wrk_orchestrator.cli.plan import Plan, Program, make_plan

HOME = {"HOME": "/home/somebody"}


def plan(
    *words: str,
    mesh: str = "",
    environ: dict[str, str] | None = None,
    extras: tuple[str, ...] = (),
    search: bool = True,
) -> Plan:
    return make_plan(words, {**HOME, **(environ or {})}, mesh=mesh, extras=extras, search=search)


def effective(program: Program) -> dict[str, str]:
    """Of a setting that is given twice, the last one counts."""
    return dict(program.flags)


def test_an_orchestrator_and_two_racks_on_the_usual_ports_with_the_usual_state() -> None:
    made = plan()
    assert made.orchestrator.prefix == "wrk-orchestrator-http-main"
    assert [sim.prefix for sim in made.sims] == ["wrk-rack-sim-r1", "wrk-rack-sim-r2"]
    assert made.embeddings is None
    assert made.state_dir == Path("/home/somebody/.local/state/wrk")
    assert "port" not in effective(made.orchestrator)
    assert made.settings.discovery.mesh == "default"


def test_all_of_them_drain_for_three_seconds_at_most() -> None:
    made = plan(extras=("embeddings",))
    for program in (made.orchestrator, *made.sims, made.embeddings):
        assert program is not None
        assert effective(program)["stop.drainTimeout"] == "3000"


def test_racks_take_ports_from_the_kernel_whatever_the_environment_says() -> None:
    made = plan(environ={"WRK_RPC__PORT": "9004"})
    assert [effective(sim)["rpc.port"] for sim in made.sims] == ["0", "0"]
    assert "rpc.port" not in effective(made.orchestrator)


def test_a_check_cannot_collide_with_a_mesh_that_runs() -> None:
    made = plan(mesh="check-1", environ={"WRK_STATE_DIR": "/in/use", "WRK_PORT": "8003"})
    orchestrator = effective(made.orchestrator)
    assert (orchestrator["port"], orchestrator["rpc.port"]) == ("0", "0")
    assert {effective(program)["discovery.mesh"] for program in (made.orchestrator, *made.sims)} == {
        "check-1"
    }
    assert made.settings.discovery.mesh == "check-1"
    assert made.state_dir is None


def test_what_is_asked_for_outright_counts_in_a_check_as_well() -> None:
    made = plan("--port", "9003", "--mesh=ours", "--state-dir", "/mine", mesh="check-1")
    assert effective(made.orchestrator)["port"] == "9003"
    assert made.settings.discovery.mesh == "ours"
    assert made.state_dir == Path("/mine")


def test_the_state_directory_of_the_environment_counts_otherwise() -> None:
    assert plan(environ={"WRK_STATE_DIR": "/in/use"}).state_dir == Path("/in/use")


@pytest.mark.parametrize(
    ("flag", "orchestrator", "sim", "embeddings", "openai"),
    [
        ("--port=9003", True, False, False, False),
        ("--rpc.port=9004", True, False, False, False),
        ("--discovery.mesh=ours", True, True, True, True),
        ("--interface=127.0.0.1", True, True, True, True),
        ("--load-balancing-strategy=random", True, True, True, True),
        ("--log.level=error", True, True, True, True),
        ("--latency=5", False, True, False, False),
        ("--sim.latency=5", False, True, False, False),
        ("--nonsense=5", False, True, False, False),
        ("--embeddings.model=/a/model", False, False, True, False),
        ("--openai.max-concurrent=4", False, False, False, True),
    ],
)
def test_a_setting_goes_to_whom_it_is_for(
    flag: str, orchestrator: bool, sim: bool, embeddings: bool, openai: bool
) -> None:
    made = plan(flag, extras=("embeddings",))
    assert made.embeddings is not None
    assert (flag in made.orchestrator.arguments) is orchestrator
    assert [flag in rack.arguments for rack in made.sims] == [sim, sim]
    assert (flag in made.embeddings.arguments) is embeddings
    assert (flag in made.before("http://127.0.0.1:11434", "ollama").arguments) is openai
    assert made.sims_asked_for is (sim and flag not in made.orchestrator.arguments)


def test_everybody_reads_the_same_settings_files() -> None:
    made = plan("--config", "/etc/wrk", environ={"WRK_ENV": "production"})
    for program in (made.orchestrator, *made.sims):
        assert {"--config=/etc/wrk", "--env=production"} <= set(program.arguments)


def test_a_bare_flag_is_a_switch() -> None:
    assert plan("--debug").settings.debug is True


@pytest.mark.parametrize(
    "words", [("--rack", "r9"), ("--rack=r9",), ("--wtype", "x"), ("--show-config",), ("r1",)]
)
def test_what_up_decides_itself_cannot_be_given(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        plan(*words)


def test_what_cannot_be_started_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--with tea: there is embeddings"):
        plan(extras=("tea",))
    with pytest.raises(UsageError, match="needs --with embeddings"):
        plan("--embeddings.model=/a/model")


def test_a_mistake_in_a_common_setting_is_found_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match="requestTimeout = 'soon'"):
        plan("--requestTimeout", "soon")


def test_the_section_of_a_rack_in_the_environment_is_none_of_ours() -> None:
    assert plan(environ={"WRK_SIM__LATENCY": "5"}).settings.port == 8003


# --- model servers


def test_a_rack_goes_before_a_server_with_its_name_and_a_port_from_the_kernel() -> None:
    rack = plan().before("http://127.0.0.1:11434", "ollama")
    assert (rack.name, rack.prefix) == ("rack ollama", "wrk-rack-openai-ollama")
    assert effective(rack)["openai.upstream"] == "http://127.0.0.1:11434"
    assert effective(rack)["rpc.port"] == "0"
    assert rack.arguments[-1] == "--openai.upstream=http://127.0.0.1:11434"


def test_servers_are_looked_for_on_their_usual_ports_and_where_ollama_was_told_to_be() -> None:
    usual = tuple(f"http://127.0.0.1:{port}" for port in (11434, 1234, 8000, 8080))
    assert plan().addresses == usual
    assert plan(environ={"OLLAMA_HOST": "0.0.0.0:5000"}).addresses == (*usual, "http://127.0.0.1:5000")


def test_they_are_looked_for_where_a_setting_says_and_never_on_the_orchestrator_s_own_port() -> None:
    assert plan("--modelServers.addresses=5000,http://gpu.lan:8000/v1").addresses == (
        "http://127.0.0.1:5000",
        "http://gpu.lan:8000",
    )
    assert "http://127.0.0.1:8080" not in plan("--port=8080").addresses


def test_nobody_is_asked_for_a_check_or_if_the_search_is_switched_off() -> None:
    everywhere = {"OLLAMA_HOST": "127.0.0.1:5000"}
    assert plan(mesh="check-1", environ=everywhere).addresses == ()
    assert plan(search=False, environ=everywhere).addresses == ()
    assert plan("--model-servers.addresses=", environ=everywhere).addresses == ()


@pytest.mark.parametrize("flag", ["--openai.upstream=http://127.0.0.1:5000", "--openai.api-key-env=KEY"])
def test_what_is_for_one_server_is_not_for_all_that_are_found(flag: str) -> None:
    with pytest.raises(
        UsageError, match=r"start `wrk rack openai --upstream URL --api-key-env NAME` besides"
    ):
        plan(flag)
    assert effective(plan().before("http://127.0.0.1:11434", "ollama"))["openai.apiKeyEnv"] == ""
