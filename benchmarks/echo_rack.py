"""The least rack there is, so that a benchmark measures the way to it and not what it does."""

from __future__ import annotations

from typing import Any

from wrk_base.contract import Description, Options
from wrk_base.rack import Rack


class EchoRack(Rack):
    def describe(self) -> Description:
        return Description(models=["echo"], max_concurrent=1024)

    async def infer(self, model_id: str, input_data: Any, options: Options) -> Any:
        return input_data
