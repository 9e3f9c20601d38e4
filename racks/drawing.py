"""The choice of the next token from a model's numbers, one row at a time.

Each answer draws from a generator of its own, so a seed gives the same tokens in whatever company. Knows
no model.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

from .text_requests import Sampling


def draw(numbers: Any, sampling: Sampling, chance: Random) -> int | None:
    """The next token; None where the numbers (a tensor of one row) are none: nothing can be chosen."""
    best = numbers.max()
    if not math.isfinite(best):
        return None
    if sampling.temperature == 0:
        return int(numbers.argmax())
    # The best is taken off first: next to temperature 0 the quotient would be too large for a number.
    weights = ((numbers - best).double() / sampling.temperature).softmax(-1)
    tokens = None
    if 0 < sampling.top_k < len(weights):
        weights, tokens = weights.topk(sampling.top_k)
    elif sampling.top_p < 1:
        weights, tokens = weights.sort(descending=True)
    sums = weights.cumsum(-1)
    count = len(sums)
    if tokens is not None:
        # As many of the likeliest as together reach top_p: those before which it was not reached yet.
        count = max(1, int((sums - weights < sampling.top_p * sums[-1]).sum()))
    point = chance.random() * float(sums[count - 1])
    place = min(int((sums[:count] <= point).sum()), count - 1)
    return place if tokens is None else int(tokens[place])
