"""What this process may hold where its address space is limited (`ulimit -v`).

Beyond the limit an allocation fails wherever it happens to be made; in ZeroMQ's own threads that ends the
process. So bodies get a share of what is there, and are refused beyond it like everywhere else.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from msgspec.structs import replace

from .config import Settings

COPIES = 8  # of a body on its way: chunks, whole, decoded, packed, sent, and what lies between them unused
LEAST = 1_048_576  # the least that the settings allow


def spare() -> int | None:
    """Bytes of address space that are left; None without a limit. Linux alone enforces one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or sys.platform != "linux":
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return max(0, soft - pages * resource.getpagesize())


def within(settings: Settings, spare: int | None) -> Settings:
    """The same settings, with no more bytes for bodies than so much memory holds."""
    if spare is None:
        return settings
    most, rpc = max(LEAST, spare // COPIES), settings.rpc
    return replace(
        settings,
        rpc=replace(rpc, process_bytes=min(rpc.process_bytes, most), peer_bytes=min(rpc.peer_bytes, most)),
    )
