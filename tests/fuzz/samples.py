"""One well-formed envelope of each kind, with something in every field that may be nil."""

from __future__ import annotations

from wrk_base.rpc import wire
from wrk_base.rpc.identity import Identity

EPOCH = 7  # of the servers in tests/fakes
CLIENT = Identity("client-1", epoch=1, role="client")
RACK = Identity("impostor", EPOCH, role="rack")
HEAD = wire.pack_head({"modelId": "m", "options": {"task": "chat", "timeoutMs": 5, "sessionId": "s"}})

SAMPLES: dict[int, wire.Envelope] = {
    wire.HELLO: (wire.HELLO, 0, 0, CLIENT.greeting({"maxMessage": 1_048_576})),
    wire.HELLO_OK: (wire.HELLO_OK, 0, 0, RACK.greeting({"maxMessage": 1_048_576, "maxInFlight": 9})),
    wire.REQUEST: (wire.REQUEST, 0, 1, EPOCH, "runInference", 10_000, HEAD, wire.MSGPACK, b"\xc0", {"a": 1}),
    wire.REPLY: (wire.REPLY, 0, 1, HEAD, wire.MSGPACK, wire.pack_body({"a": [1, 2.5]}), {"b": 1}),
    wire.ERROR: (wire.ERROR, 0, 1, 13, "ERR_INTERNAL", "it failed", False, 100, "w1", True, {"a": 1}),
    wire.ITEM: (wire.ITEM, 0, 1, 0, wire.MSGPACK, (wire.pack_body(1), wire.pack_body("two"))),
    wire.END: (wire.END, 0, 1, 2, HEAD, wire.JSON, b'{"n":2}', {"b": 1}),
    wire.CREDIT: (wire.CREDIT, 0, 1, 8, 65_536),
    wire.CANCEL: (wire.CANCEL, 0, 1),
    wire.PING: (wire.PING, 0, 2, {"a": 1}),
    wire.PONG: (wire.PONG, 0, 0, {"load": 0.5, "inFlight": 1}),
    wire.GOAWAY: (wire.GOAWAY, 0, 1, "it drains"),
    wire.BYE: (wire.BYE, 0, 0),
    wire.REJECT: (wire.REJECT, 0, 1, "greet first"),
    wire.CHUNK: (wire.CHUNK, 0, 1),
}
