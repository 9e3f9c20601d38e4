"""How many file descriptors this process may have, and whose the last ones are.

The kernel gives the lowest number that is free, so a new number tells how many are taken, and nothing has to
be counted. At the limit itself ZeroMQ accepts no connection, tries again at once and takes a whole core,
while nothing else can be opened. So each kind of connection ends before it: callers by HTTP first, callers by
RPC next, and what is left is for the links to racks, which all others live on, and for files.
"""

from __future__ import annotations

import resource

WANTED = 65_536  # two a link, two a caller; the soft limit of 1,024 ends at some 250 racks
FEW = 1024  # below that a mesh of some size does not fit, and its owner should know
KEPT_FROM_HTTP = 64
KEPT_FROM_CALLERS = 32  # by RPC
KEPT_FROM_LINKS = 16  # status files, certificates, the store


def limit() -> int:
    """How many there may be; they are numbered below it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def is_short(number: int, kept: int) -> bool:
    """Whether a descriptor of this number is among the last `kept`."""
    return number >= limit() - kept


def raise_limit() -> int:
    """As far as it may be; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()
