"""The environment of the peers: benchmarks/.peers, made once, with pinned versions.

Apart from the project's own, because these packages are nobody's dependency here. A package that does
not install on this Python is named and skipped; the peer that needs it is then left out with the reason.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".peers"
REQUIREMENTS = HERE / "requirements.txt"


def ready(folder: Path = FOLDER, requirements: Path = REQUIREMENTS) -> Path:
    """The environment's interpreter; does nothing when it is there and up to date."""
    python = folder / "bin" / "python"
    stamp, wanted = folder / "stamp", fingerprint(requirements)
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"making {folder} for the peers")
    uv = shutil.which("uv")
    make = (
        [uv, "venv", "--clear", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "venv", "--clear"]
    )
    subprocess.run([*make, str(folder)], check=True, stdout=sys.stderr)
    install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    if _install([*install, "--quiet"], requirements):
        stamp.write_text(wanted)
    return python


def fingerprint(requirements: Path) -> str:
    """Changes with the wanted packages and with the Python that they were installed for."""
    return hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()


def pins(requirements: Path = REQUIREMENTS) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    return [line for line in lines if line]


def say(text: str) -> None:
    print(f"peers: {text}", file=sys.stderr, flush=True)


def _install(install: list[str], requirements: Path) -> bool:
    """All at once or, where that fails, each package by itself; whether all are there."""
    if not subprocess.run([*install, "-r", str(requirements)], check=False).returncode:
        return True
    missing = [
        pin
        for pin in pins(requirements)
        if subprocess.run([*install, "--no-deps", pin], check=False).returncode
    ]
    for pin in missing:
        say(f"NOT INSTALLED: {pin}")
    return not missing
