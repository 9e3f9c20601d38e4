"""The mock as a rack of ours: the same answers as the HTTP mock's, at once and at the same pace.

It is written as any rack is, so that everything between it and the caller is the product's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from benchmarks.gateway_side import answers
from wrk_base.contract import Description, Options
from wrk_base.rack import Rack
from wrk_base.rpc import wire
from wrk_base.rpc.request import Final, Packed

COMPLETION = Packed(wire.JSON, answers.encoded(answers.completion()))
TOKEN = Packed(wire.JSON, answers.encoded(answers.token()))
LAST = Packed(wire.JSON, answers.encoded(answers.last()))


class MockRack(Rack):
    def describe(self) -> Description:
        return Description(models=[answers.MODEL], max_concurrent=1024)

    def infer(self, model_id: str, input_data: Any, options: Options) -> Awaitable[Any] | AsyncIterator[Any]:
        return _streamed(input_data["max_tokens"]) if input_data.get("stream") else _whole()


async def _whole() -> Packed:
    return COMPLETION


async def _streamed(tokens: int) -> AsyncIterator[Packed | Final]:
    """Each token's time counts from the first's: a late one makes no other late."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(tokens):
        if number:
            await asyncio.sleep(begun + number / answers.PER_SECOND - loop.time())
        yield TOKEN
    yield LAST
    yield Final()
