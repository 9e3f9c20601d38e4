"""The commands that let machines in and shut members out: invite, join, mesh, revoke, rotate.

`invite` and `revoke` need the root key, so they run on the machine that made the mesh. What they change
lies in files; live processes of this machine follow within a second, and tell the others.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrk_base import clock
from wrk_base.discovery.advert import is_loopback
from wrk_base.discovery.local import read_status
from wrk_base.errors import PermissionDenied, StartError, WrkError
from wrk_base.state import default_state_dir

from .asking import Where, ask, failed, in_session
from .inputs import read_input
from .plain import json_text

if TYPE_CHECKING:
    from wrk_base.discovery import Found
    from wrk_base.security.mesh_files import MeshFiles

    from .session import Session

QUICK_SECONDS = 5.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MADE_BY_HAND = ("client", "operator", "orchestrator", "rack", "worker")

Mesh = Annotated[str, typer.Option(metavar="NAME", help="Of this mesh; by default the setting's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    for command in (invite, join, mesh, revoke, rotate):
        app.command()(command)


def invite(
    role: Annotated[list[str], typer.Option(metavar="ROLE", help=f"{', '.join(MADE_BY_HAND)}; may repeat.")],
    name: Annotated[str, typer.Option(help="What the machine will be called; else it says so itself.")] = "",
    models: Annotated[str, typer.Option(metavar="A,B", help="The only models its racks may serve.")] = "",
    expires: Annotated[
        str, typer.Option(metavar="24h", help="How long it can be used: 30m, 24h, 7d.")
    ] = "24h",
    mesh: Mesh = "",
    as_json: AsJson = False,
) -> None:
    """Print a string that lets one more machine into the mesh, once."""
    unknown = sorted(set(role) - set(MADE_BY_HAND))
    if unknown:
        raise typer.BadParameter(f"--role {unknown[0]}: there are {', '.join(MADE_BY_HAND)}")
    seconds = _seconds(expires)
    try:
        files = _files(mesh)
        files.check_first()
        orchestrators = _orchestrators_here(files.name)
        from wrk_base.security import z85

        invitation = files.invite(
            roles=frozenset(role),
            name=name,
            models=frozenset(filter(None, models.split(","))) or None,
            expires_s=seconds,
            now=clock.wall(),
            addresses=tuple(found.endpoint for found in orchestrators[:1]),
            key=z85.decode(orchestrators[0].key),
        )
    except (StartError, WrkError) as error:
        raise failed(error, as_json) from None
    text = invitation.encode()
    if as_json:
        print(json_text({"invitation": text, "expires": invitation.expires}))
        return
    print(text)
    print(f"good once, for {expires}; on the other machine: wrk join {text[:16]}...", file=sys.stderr)
    if all(is_loopback(_host(found.endpoint)) for found in orchestrators[:1]):
        print(
            f"the orchestrator listens on {orchestrators[0].endpoint}, where other machines cannot reach it: "
            "start it without --interface, or `wrk up --lan`",
            file=sys.stderr,
        )


def join(
    invitation: Annotated[
        str, typer.Argument(help="What `wrk invite` printed; @FILE reads a file, - standard input.")
    ],
    name: Annotated[
        str, typer.Option(help="What this machine is to be called; by default its host name.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make this machine a member of the mesh that invited it."""
    import asyncio

    from wrk_base.joining import ask_to_join
    from wrk_base.security.certificate import Certificate, Untrusted, public_bytes
    from wrk_base.security.invitation import Invitation, JoinRequest
    from wrk_base.security.mesh_files import MeshFiles

    try:
        invited = Invitation.decode(read_input(invitation))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        if invited.expires <= clock.wall():
            raise PermissionDenied("the invitation is out of date: ask for a new one")
        set_to = _mesh_name("")
        files = MeshFiles(default_state_dir(os.environ), invited.mesh)
        files.check_may_join(invited.mesh_id)
        key = files.new_key()
        request = JoinRequest(invited.secret, public_bytes(key), name or socket.gethostname())
        grant = asyncio.run(ask_to_join(invited, request))
        files.install(invited, grant, key)
        own = Certificate.unpack(grant.certificate)
    except Untrusted as reason:
        raise failed(PermissionDenied(str(reason)), as_json) from None
    except (StartError, WrkError) as error:
        raise failed(error, as_json) from None
    facts = {"mesh": invited.mesh, "machine": own.name, "roles": sorted(own.roles), "until": own.until}
    if as_json:
        print(json_text(facts))
        return
    print(f"this machine is {own.name!r} in mesh {invited.mesh!r}, as {', '.join(sorted(own.roles))}")
    if set_to != invited.mesh:
        print(f"here processes are set to mesh {set_to!r}: start them with --discovery.mesh={invited.mesh}")
    elif "rack" in own.roles:
        print("a rack that runs here goes on by itself; to start one: wrk rack KIND --rack NAME")


def mesh(
    peer: Annotated[str, typer.Option(metavar="tcp://HOST:PORT|ID", help="Ask this orchestrator.")] = "",
    mesh: Mesh = "",
    interface: Annotated[str, typer.Option(metavar="NAME|ADDRESS", help="Look on this network.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show who is in the mesh, until when, and at which address with which key."""
    told = ask(Where(peer, mesh, interface, as_json), "listMembers", QUICK_SECONDS)
    machines = _machines(mesh)
    if as_json:
        print(json_text({**told, "machines": machines}))
        return
    from . import render

    render.show(*render.mesh_parts(told, machines))


def revoke(
    name: Annotated[str, typer.Argument(help="A machine, with all its processes, or one process by its id.")],
    mesh: Mesh = "",
    interface: Annotated[str, typer.Option(metavar="NAME|ADDRESS", help="Look on this network.")] = "",
    as_json: AsJson = False,
) -> None:
    """Shut a machine or a process out of the mesh: no new links, and the live ones are cut."""
    from wrk_base.security import z85
    from wrk_base.security.certificate import key_id

    where = Where("", mesh, interface, as_json)
    try:
        files = _files(mesh)
        files.check_first()
        if any(machine.name == name for machine in files.machines()):
            what, listed = f"machine {name}", files.revoke(name, clock.wall())
        else:
            found = [m for m in ask(where, "listMembers", QUICK_SECONDS)["members"] if m["name"] == name]
            if not found:
                known = ", ".join(sorted(machine.name for machine in files.machines())) or "none"
                raise StartError(
                    f"no machine or linked process is called {name!r}; machines: {known}; "
                    "`wrk mesh` shows the processes"
                )
            key = key_id(z85.decode(found[0]["publicKey"]))
            what = f"process {name}"
            listed = files.revoke_key(key, name, int(found[0]["until"]), clock.wall())
    except (StartError, WrkError) as error:
        raise failed(error, as_json) from None
    told = _spread(where)
    if as_json:
        print(json_text({"revoked": name, "serial": listed.serial, "told": told}))
        return
    spread = told or "no orchestrator answers now: others learn when one does"
    print(f"{what} is revoked (list {listed.serial}); {spread}")


def rotate(
    prefix: Annotated[str, typer.Argument(help="As in the names of the state directory: wrk-rack-sim-r1.")],
) -> None:
    """Have a process of this machine make itself a new key at its next start."""
    state_dir = default_state_dir(os.environ)
    there = sorted(path.name.removesuffix(".id.json") for path in state_dir.glob("*.id.json"))
    if prefix not in there:
        known = ", ".join(there) or "none"
        raise failed(StartError(f"no process here has the prefix {prefix!r}; there are: {known}"), False)
    (state_dir / f"{prefix}.key").unlink(missing_ok=True)
    print(
        f"{prefix} makes a new key when it is started again; stopping it first drains it, so nothing is lost"
    )


# --- what they share


def _files(mesh: str) -> MeshFiles:
    from wrk_base.security.mesh_files import MeshFiles

    return MeshFiles(default_state_dir(os.environ), _mesh_name(mesh))


def _mesh_name(mesh: str) -> str:
    from .session import read_settings

    return read_settings(mesh, "", os.environ).discovery.mesh


def _orchestrators_here(mesh: str) -> list[Found]:
    """Those of this machine that can take others in, best reachable first. Raises `StartError`."""
    found = [
        found
        for found in read_status(Path(default_state_dir(os.environ)) / "status", mesh)
        if found.role == "orchestrator" and found.key
    ]
    if not found:
        raise StartError(
            f"no orchestrator of mesh {mesh!r} runs on this machine, and the other one has to reach it to "
            "join: start it (`wrk orchestrator`) and invite again"
        )
    return sorted(found, key=lambda one: is_loopback(_host(one.endpoint)))


def _machines(mesh: str) -> list[dict[str, Any]]:
    """Those that may certify; only the first machine knows, elsewhere there are none to show."""
    try:
        return [
            {"name": machine.name, "roles": sorted(machine.roles), "until": machine.until}
            for machine in _files(mesh).machines()
        ]
    except StartError:
        return []


def _spread(where: Where) -> str:
    """Tell an orchestrator, which tells all others; greeting it does, as a greeting names the list."""

    async def greet(session: Session) -> str:
        return await session.orchestrator()

    try:
        return f"told {in_session(where._replace(as_json=True), greet)}"
    except typer.Exit:
        return ""


def _host(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip())
    if match is None:
        raise typer.BadParameter(f"--expires {text}: write it as 30m, 24h or 7d")
    return int(match[1]) * UNITS[match[2]]
