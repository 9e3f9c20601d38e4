"""What a rack makes of a stream that it shall go on with: asked directly, as an orchestrator would."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.sim_rack import serving
from wrk_base import contract, errors
from wrk_base.rpc import wire

ITEMS = [{"index": 0, "text": "meadow"}]


def asked(had: list[Any], /, **progress: Any) -> dict[str, Any]:
    packed = [wire.pack_body(item) for item in had]
    told = contract.as_body(contract.Progress(wire.MSGPACK, packed, 100, 10_000))
    options = {"resumeFrom": {**told, **progress}}
    return {"modelId": "sim-model", "inputData": {"prompt": "p", "sim": {"words": 5}}, "options": options}


def refused(kind: type[errors.WrkError], body: dict[str, Any], how: str = "items", **flags: str) -> Any:
    async def story() -> errors.WrkError:
        async with serving(latency="1", **flags) as caller:
            with pytest.raises(kind) as caught:
                await getattr(caller, how)(body)
            assert caller.rack.running == 0
            return caught.value

    return run(story(), "virtual")


def test_it_goes_on_behind_what_its_caller_has() -> None:
    async def story() -> None:
        async with serving(latency="1") as caller:
            whole = await caller.items({**asked([]), "options": {}})
            assert [item["index"] for item in whole] == [0, 1, 2, 3, 4]
            for had in range(1, 6):
                assert await caller.items(asked(whole[:had])) == whole[had:]

    run(story(), "virtual")


def test_a_rack_that_cannot_go_on_has_not_begun() -> None:
    for error in (
        refused(errors.Unavailable, asked(ITEMS), resumable="false"),
        refused(errors.Unavailable, asked(ITEMS), "told"),
    ):
        assert error.not_started
        assert "this rack" in error.message
        assert "differs" not in error.message


def test_a_rack_that_would_say_something_else_says_nothing() -> None:
    error = refused(errors.Unavailable, asked([{"index": 0, "text": "nonsense"}]))
    assert error.not_started
    assert "at item 0" in error.message


def test_more_than_there_is_to_say_is_no_answer_either() -> None:
    items = [{"index": number, "text": ""} for number in range(6)]
    refused(errors.Unavailable, asked(items))


@pytest.mark.parametrize(
    "wrong",
    [{"contentType": 9}, {"items": [b"\xc1"]}, {"items": "x"}, {"grantedItems": -1}, {"contentType": None}],
)
def test_what_is_malformed_is_refused(wrong: dict[str, Any]) -> None:
    assert "resumeFrom" in refused(errors.BadRequest, asked(ITEMS, **wrong)).message
