"""`wrk key`: the API keys by which other machines use the HTTP service of the orchestrators here.

They lie in a file of the state directory, which live orchestrators look at whenever a request comes: no
process is asked, none has to run. A key is printed once and kept nowhere.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrk_base import clock
from wrk_base.errors import StartError, WrkError
from wrk_base.state import StateDir, default_state_dir

from .asking import failed
from .plain import json_text

if TYPE_CHECKING:
    from wrk_orchestrator.http.key_files import KeyFile

ALL, ANY = "all", "any"

Name = Annotated[str, typer.Argument(help="Whom it is for: letters, digits, dots, dashes, underscores.")]
State = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="State directory of the orchestrator; by default yours."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_keys = typer.Typer(help="API keys for machines that use the HTTP service.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    app.add_typer(_keys, name="key")


@_keys.command()
def add(
    name: Name,
    models: Annotated[str, typer.Option(metavar="A,B", help="The only models it is for.")] = "",
    rate: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1_000_000, help="Requests a minute.")
    ] = None,
    state_dir: State = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once."""
    from wrk_orchestrator.http import api_keys

    key = api_keys.made_of(secrets.token_bytes(api_keys.SECRET_BYTES))
    named = [model.strip() for model in models.split(",") if model.strip()]
    try:
        kept = api_keys.entry(key, name, clock.wall_ms(), named, rate)
    except ValueError:
        raise typer.BadParameter(
            "NAME has up to 63 letters, digits, dots, dashes and underscores, "
            "a model's name up to 256 characters, and there are up to 1,000 models"
        ) from None
    with _file(state_dir, as_json) as file:
        file.add(kept)
    if as_json:
        print(json_text({"key": key, **kept.facts()}))
        return
    print(key, flush=True)
    print("kept nowhere: hand it on now; sent as authorization: Bearer KEY", file=sys.stderr)


@_keys.command("list")
def list_keys(state_dir: State = None, as_json: AsJson = False) -> None:
    """List the keys: names and what they are for, never the keys."""
    with _file(state_dir, as_json) as file:
        facts = [key.facts() for key in file.read()]
    if as_json:
        print(json_text({"keys": facts}))
        return
    from . import render

    if not facts:
        print("there is no key; `wrk key add NAME` makes one")
        return
    made = render.table("name", "created", "models", "a minute", numbers=("a minute",), whole=("name",))
    for row in facts:
        made.add_row(*(render.cell(text) for text in _cells(row)))
    render.show(made)


@_keys.command()
def remove(name: Name, state_dir: State = None, as_json: AsJson = False) -> None:
    """Remove a key: what is under way with it ends, and nothing more begins."""
    with _file(state_dir, as_json) as file:
        file.remove(name)
    if as_json:
        print(json_text({"removed": name}))
        return
    print(f"{name} is removed; orchestrators that run refuse it within a second", file=sys.stderr)


@contextmanager
def _file(state_dir: Path | None, as_json: bool) -> Iterator[KeyFile]:
    """The file of keys. A failure is said, and ends the command."""
    from wrk_orchestrator.http.key_files import KeyFile

    try:
        yield KeyFile(StateDir(state_dir or default_state_dir(os.environ)).path)
    except (WrkError, StartError) as error:
        raise failed(error, as_json) from None


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield row["name"]
    yield f"{datetime.fromtimestamp(row['created'] / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    yield ALL if row["models"] is None else ", ".join(row["models"])
    yield ANY if row["rate"] is None else str(row["rate"])
