"""The first inputs: all that the encoder makes, so that a fuzzer starts behind the first checks."""

from __future__ import annotations

from typing import Any

from tests.fakes.rpc import request
from tests.fuzz import peer_target, server_target
from tests.fuzz.samples import HEAD, SAMPLES
from tests.fuzz.steps import Step, pack
from wrk_base.rpc import wire

SENT_MS = 1_000_000


def message(*envelopes: Any) -> bytes:
    return wire.encode(list(envelopes), SENT_MS)


def of_wire() -> list[bytes]:
    bodies = [wire.pack_body({"a": [1, None, -2.5, "x", b"y"]}), wire.pack_body({"a": [1, "x"]}, wire.JSON)]
    every_one = [message(envelope) for envelope in SAMPLES.values()]
    return [HEAD, *bodies, *every_one, message(*SAMPLES.values())]


def of_server() -> list[bytes]:
    guest, stranger, leave, later = server_target.Deed
    one_each = [Step(guest, message(envelope)) for envelope in SAMPLES.values()]
    calls = [
        Step(guest, message(request(number, method, "body", head=HEAD)))
        for number, method in enumerate(server_target.METHODS, 1)
    ]
    flagged = [request(flags + 1, "echo", flags=flags, extras={"size": 4}) for flags in range(9)]
    stream = Step(guest, message(request(1, "count", flags=wire.STREAM_WANTED)))
    credit = Step(guest, message((wire.CREDIT, 0, 1, 200, 2**20)))
    large = Step(guest, message(request(1, "echo", flags=wire.MORE_CHUNKS, extras={"size": 4})))
    chunk = Step(guest, message((wire.CHUNK, wire.MORE_CHUNKS, 1)), chunk=b"\xa3a")
    last = Step(guest, message((wire.CHUNK, 0, 1)), chunk=b"bc")
    return [
        *(pack([step]) for step in one_each),
        *(pack([Step(stranger, step.message)]) for step in one_each),
        pack(calls),
        pack([*calls, Step(leave), calls[1]]),
        pack([Step(guest, message(request(1, "wait"), request(2, "wait"))), Step(later, b"\4")]),
        pack(
            [Step(guest, message(request(1, "wait")), held=True), Step(guest, message((wire.CANCEL, 0, 1)))]
        ),
        pack([Step(guest, message(*flagged)), Step(later, b"\3"), Step(guest, message((wire.CANCEL, 0, 3)))]),
        pack([stream, credit]),
        pack([stream, Step(later, b"\3"), Step(leave)]),
        pack([large, chunk, last]),
        pack([large, last]),
        pack([large, chunk, Step(guest, message((wire.CANCEL, 0, 1))), last]),
        pack([large, chunk, Step(leave)]),
        pack([Step(stranger, message(SAMPLES[wire.HELLO])), Step(stranger, message(request(1, "wait")))]),
    ]


def of_peer() -> list[bytes]:
    say, greet, call, stream, give_up, cut, later = peer_target.Deed
    one_each = [Step(say, message(envelope)) for envelope in SAMPLES.values()]
    asked = [Step(greet), Step(call), Step(stream)]
    sized = (HEAD, wire.MSGPACK, b"", {"size": 4})
    items = Step(say, message((wire.ITEM, 0, 2, 0, wire.MSGPACK, (b"\1", b"\2"))))
    end = Step(say, message((wire.END, 0, 2, 2, HEAD, wire.MSGPACK, b"\xc0", None)))
    large = Step(say, message((wire.REPLY, wire.MORE_CHUNKS, 1, *sized)))
    large_end = Step(say, message((wire.END, wire.MORE_CHUNKS, 2, 2, *sized)))
    chunks = [
        Step(say, message((wire.CHUNK, flags, number)), chunk=chunk)
        for number in (1, 2)
        for flags, chunk in ((wire.MORE_CHUNKS, b"\xa3a"), (0, b"bc"))
    ]
    return [
        *(pack([step]) for step in one_each),
        *(pack([*asked, step]) for step in one_each),
        pack([*asked, items, end]),
        pack([*asked, large, *chunks]),
        pack([*asked, items, large_end, *chunks]),
        pack([*asked, large, chunks[1]]),
        pack([*asked, large, chunks[0], Step(cut)]),
        pack([*asked, items, end, end]),
        pack([Step(call), Step(greet), Step(cut), Step(greet), Step(call), one_each[-1]]),
        pack([*asked, Step(give_up), Step(later, b"\3"), Step(call, b"\1"), Step(later, b"\3")]),
        pack([*asked, Step(say, message(*SAMPLES.values())), Step(greet), Step(call)]),
    ]
