"""The built wheel, used as by someone who has no clone: an empty environment, an empty folder.

Everything is built and installed once; pip fetches the pinned libraries, so this needs an index.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("wrk_base", "wrk_orchestrator", "racks")
PATIENCE_S = 180  # a guard against a hang; nothing here is measured


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """What the command printed, once it has succeeded."""
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders in its source, whose stale files the next one packs."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel and what it asks for."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet")
    run(*pip, "--no-input", "--constraint", ROOT / "constraints.txt", wheel)
    return venv / "bin"


class User:
    """Somebody with the installed command, a home and a current folder that are both empty."""

    def __init__(self, commands: Path, folder: Path) -> None:
        self.commands, self.here, self.state = commands, folder / "here", folder / "state"
        self.here.mkdir()
        self.environment = {
            "PATH": f"{commands}{os.pathsep}{os.defpath}",
            "HOME": str(folder),
            "XDG_STATE_HOME": str(self.state),
            "WRK_DISCOVERY__MESH": f"test-{secrets.token_hex(4)}",
            "WRK_PORT": "0",
            "WRK_RPC__PORT": "0",
        }

    def wrk(self, *arguments: str) -> str:
        return run(self.commands / "wrk", *arguments, cwd=self.here, env=self.environment)


@pytest.fixture
def user(installed: Path, tmp_path: Path) -> User:
    return User(installed, tmp_path)


def test_the_wheel_holds_the_packages_and_nothing_of_the_clone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == set(PACKAGES)

    packed = {name for name in names if name.endswith(".py")}
    written = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert packed == written
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_command_explains_itself(user: User) -> None:
    assert "up" in user.wrk("--help")


def test_defaults_are_inside_the_package(user: User) -> None:
    shown = user.wrk("worker", "--wtype", "wrk-rack-sim", "--rack", "r1", "--show-config")
    assert "requestTimeout" in shown


def test_up_routes_to_racks_and_leaves_nothing_behind(user: User) -> None:
    user.wrk("up", "--check")
    assert list(user.here.iterdir()) == []
    assert not user.state.exists()
