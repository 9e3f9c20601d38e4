"""The `wrk` command: processes of the mesh are started from here, everything else is a client of it.

`worker`, `orchestrator` and `rack` go straight to `boot.main`, before anything is imported that only a
terminal needs: a process of the mesh must not pay for the command line. The rest is in `commands.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .kinds import ORCHESTRATOR, rack_kinds, rack_type

HELP = ("-h", "--help")
USAGE = "usage: wrk rack KIND [--rack NAME] [--env ENV] [--debug] [--show-config] [--KEY VALUE ...]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 refused or failed, 2 wrong usage."""
    match sys.argv[1:] if argv is None else list(argv):
        case ["worker", *rest]:
            return _boot(rest)
        case ["orchestrator", *rest]:
            return _boot(["--wtype", ORCHESTRATOR, *rest])
        case ["rack", *rest]:
            return _rack(rest)
        case words:
            from .commands import run

            return run(words)


def _rack(words: list[str]) -> int:
    kinds = rack_kinds()
    kind = words[0] if words else ""
    if kind in kinds or ":" in kind:
        return _boot(["--wtype", rack_type(kind), *words[1:]])
    usage = f"{USAGE}\nkinds: {', '.join(kinds)}, or package.module:Class"
    if kind in HELP:
        print(usage)
        return 0
    problem = f"no kind of rack is called {kind!r}" if kind else "which kind of rack?"
    print(f"wrk: {problem}\n{usage}", file=sys.stderr)
    return 2


def _boot(argv: list[str]) -> int:
    from wrk_base import boot

    return boot.main(argv)


if __name__ == "__main__":
    sys.exit(main())
