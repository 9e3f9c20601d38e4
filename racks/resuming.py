"""Going on with a stream that another rack of the same kind began, for answers that are the same each time.

The answer is made again, under the id and the time that its first item tells, and what its caller has already
is left out. It is compared on the way: a rack with another model, other settings or other numbers would say
something else, and then nothing may follow.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from wrk_base import errors
from wrk_base.rpc.request import Final, Packed

from .openai_replies import bits_of

DATA = b"data: "


class Begun(NamedTuple):
    """What all items of an answer to OpenAI's clients share: Unix seconds, and the bits of its id."""

    created: int
    bits: int


def begun_as(had: Sequence[Any]) -> Begun | None:
    """How the answer began of which these items are the first; None where they do not tell."""
    try:
        first = had[0]
        if isinstance(first, bytes):
            first = msgspec.json.decode(first[first.index(DATA) + len(DATA) :])["response"]
        return Begun(int(first["created" if "created" in first else "created_at"]), bits_of(first["id"]))
    except (LookupError, TypeError, ValueError, RecursionError):
        return None


async def behind(had: Sequence[Any], made: AsyncGenerator[Any]) -> AsyncIterator[Any]:
    """What `made` yields after the items that the caller `had`. Raises `Unavailable` where these differ."""
    number = 0
    async with aclosing(made) as items:
        async for item in items:
            if number >= len(had):
                yield item
                continue
            if type(item) is Final or _content(item) != had[number]:
                raise errors.Unavailable(
                    f"this rack's answer differs from the one that was begun, at item {number}",
                    not_started=True,
                )
            number += 1


def _content(item: Any) -> Any:
    return item.payload if type(item) is Packed else item
