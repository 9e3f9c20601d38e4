"""What `wrk up` really starts: a worker process that does not outlive its supervisor.

    python -m wrk_orchestrator.cli.child SUPERVISOR_PID ARGUMENT ...

On Linux the kernel sends SIGTERM when the supervisor dies, however it dies; the worker then stops as it
always does. Elsewhere there is no such promise, and a supervisor that is killed leaves its workers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(supervisor: int) -> bool:
    """Ask to be ended with the supervisor; False if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == supervisor  # it may have died before the question


def main(argv: list[str]) -> int:
    if not end_with(int(argv[0])):
        return 1
    from wrk_base import boot

    return boot.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
