"""Whether a network says the same with a cache, in pieces and in company as it says of a text at once.

Hundreds of kinds of networks are in the library, and more come. Rather than to trust each with a mask and
with positions, its numbers are compared, once, when it is loaded. Where they are wrong in company its
answers take turns instead; where they are wrong with a cache alone, the network is not served.
"""

from __future__ import annotations

from typing import Any

from wrk_base import errors

from .lanes import Lane, Network

STEPS = 3  # some mistakes show in the second
NEARLY = 0.001  # of the numbers' spread: far above what the order of additions changes in 32 bits
ROUGHLY = 0.5  # the same in 16 bits, where an expert more or less may be chosen for a rounding


def prove(network: Network, probe: list[int]) -> None:
    """Sets `network.shares` to what holds; raises `StartError`. `probe` is a dozen of its tokens."""
    try:
        network.shares = network.can_share()
        if network.shares and _is_right(network, probe):
            return
    except Exception:  # a memory of its own kind, which does not let itself be put together
        pass
    network.shares = False
    if not _is_right(network, probe):
        raise errors.StartError("it cannot be served: its numbers with a cache are not those without")


def _is_right(network: Network, probe: list[int]) -> bool:
    """Reads most of the probe with a cache, where caches are shared in two pieces and with a shorter row
    beside it, and the rest step by step."""
    begun, rest = probe[:-STEPS], probe[-STEPS:]
    rows = [begun, begun[: len(begun) // 3]] if network.shares else [begun]
    lane = _begin(network, rows)
    for step, token in enumerate(rest, 1):
        found = lane.step([token] * len(rows))
        for row, numbers in zip(rows, found, strict=True):
            if not _close(numbers, network.at_once([*row, *rest[:step]]), network):
                return False
    return True


def _begin(network: Network, rows: list[list[int]]) -> Lane[int]:
    lane: Lane[int] | None = None
    for key, row in enumerate(rows):
        cache = network.new_cache()
        half = len(row) // 2 if network.shares else len(row)
        for start, piece in ((0, row[:half]), (half, row[half:])):
            if piece:
                network([piece], [start], cache)
        if lane is None:
            lane = Lane(network, key, cache, len(row))
        else:
            lane.join(key, cache, len(row))
    assert lane is not None
    return lane


def _close(found: Any, right: Any, network: Network) -> bool:
    share = NEARLY if "32" in str(network.model.dtype) else ROUGHLY
    return bool((found - right).abs().max() <= share * right.std())
