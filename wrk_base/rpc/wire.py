"""Where bytes become messages: the wire format, pure.

A ZeroMQ message is one frame: a msgpack array `[version, sent_ms, [envelope, ...]]`. `sent_ms` is the
sender's monotonic clock; the receiver uses only differences of it (see `calls.OneWayDelay`). All that
is queued for one peer in one tick leaves as one message, so one C call decodes many envelopes. A CHUNK
is the exception: its message has a second frame, which is the chunk's bytes.

An envelope is an array: kind, flags, id, and what its kind adds:

    HELLO, HELLO_OK   facts                    who speaks: versions, features, limits, id, epoch, role, proof
    REQUEST           epoch, method, remaining_ms, head, content_type, payload, extras
    REPLY             head, content_type, payload, extras
    ERROR             code, name, message, retryable, retry_after_ms, origin, not_started, data
    ITEM              first, content_type, [payload, ...]   items of stream `id`, numbered from 0
    END               items, head, content_type, payload, extras   the stream had so many; its final value
    CREDIT            items, bytes             stream `id` may have so many in all; id 0: so much was read
    CANCEL            -                        the caller gave the request `id` up
    PING, PONG        extras                   a PONG with id 0 is a beat that nobody asked for
    GOAWAY            message                  requests above `id` will not run here
    BYE               -                        the caller leaves
    REJECT            reason                   request `id` was not run (0: nothing that you sent)
    CHUNK             -                        the next bytes of the body of `id`, in the second frame
    REVOKED           list                     the signed list of revocations, for whoever has an older one
    JOIN              request or grant         a machine asks for its certificate: all a stranger may say

`head` is a small map that routers read, packed by itself and forwarded as it came, or nil; `payload` is
opaque bytes of `content_type`, which is one for all items of a stream. Extras are an optional map whose
unknown keys are ignored. A REQUEST, REPLY or END with MORE_CHUNKS has an empty payload and says in extras
"size" how many bytes follow in CHUNKs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgpack
import msgspec

VERSION: Final = 1

HELLO: Final = 1
HELLO_OK: Final = 2
REQUEST: Final = 3
REPLY: Final = 4
ERROR: Final = 5
ITEM: Final = 6
END: Final = 7
CREDIT: Final = 8
CANCEL: Final = 9
PING: Final = 10
PONG: Final = 11
GOAWAY: Final = 12
BYE: Final = 13
REJECT: Final = 14
CHUNK: Final = 15
REVOKED: Final = 16
JOIN: Final = 17

NAMES: Final = {
    HELLO: "HELLO",
    HELLO_OK: "HELLO_OK",
    REQUEST: "REQUEST",
    REPLY: "REPLY",
    ERROR: "ERROR",
    ITEM: "ITEM",
    END: "END",
    CREDIT: "CREDIT",
    CANCEL: "CANCEL",
    PING: "PING",
    PONG: "PONG",
    GOAWAY: "GOAWAY",
    BYE: "BYE",
    REJECT: "REJECT",
    CHUNK: "CHUNK",
    REVOKED: "REVOKED",
    JOIN: "JOIN",
}

STREAM_WANTED: Final = 1
MORE_CHUNKS: Final = 2
WHOLE: Final = 4  # a stream's remaining time bounds all of it; else only its first item
KNOWN_FLAGS: Final = STREAM_WANTED | MORE_CHUNKS | WHOLE

MSGPACK: Final = 0
JSON: Final = 1
OCTETS: Final = 2

MAX_GREETING: Final = 4096  # bytes; a stranger costs no more than this before it says who it is
CHUNK_BYTES: Final = 256 * 1024  # a larger body is cut: one big message would hold up all behind it
MAX_REMAINING_MS: Final = 86_400_000  # a day; also keeps sums of deadlines far from float trouble
ENVELOPE_BYTES: Final = 128  # an envelope without head and payload is smaller; for byte budgets

Envelope = tuple[Any, ...]
Payload = bytes | bytearray  # one that came in chunks is a bytearray: making bytes of it would copy it


class BadMessage(ValueError):
    """The bytes are no message of this protocol."""


class BadVersion(BadMessage):
    """A message of a version that this side does not speak."""


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}: the wire carries plain data and nothing that runs")


# `max_ext_len` refuses timestamps before they are made; an empty extension still passes it.
_unpack = partial(
    msgpack.unpackb, raw=False, use_list=False, strict_map_key=True, max_ext_len=0, ext_hook=_refuse_extension
)
_unpack_body = partial(
    msgpack.unpackb, raw=False, strict_map_key=True, max_ext_len=0, ext_hook=_refuse_extension
)
_pack: Callable[[Any], bytes] = msgpack.Packer().pack


def encode(envelopes: list[Envelope], sent_ms: int) -> bytes:
    """One message; raises TypeError, ValueError or OverflowError for what msgpack cannot carry."""
    return _pack((VERSION, sent_ms, envelopes))


def decode(message: bytes) -> tuple[int, tuple[Envelope, ...]]:
    """(sent_ms, envelopes, not yet checked); raises `BadMessage`."""
    try:
        version, sent_ms, envelopes = _unpack(message)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadMessage(f"not a message: {type(error).__name__}") from None
    if version != VERSION or type(version) is not int:
        raise BadVersion("a message of a version that is not spoken here")
    if type(sent_ms) is not int or sent_ms < 0 or type(envelopes) is not tuple:
        raise BadMessage("a message without sending time or envelopes")
    return sent_ms, envelopes


def _is_map(value: object) -> bool:
    return value is None or type(value) is dict


def _is_request(e: Envelope) -> bool:
    _, flags, rid, epoch, method, remaining, head, ctype, payload, extras = e
    return (
        type(rid) is int
        and type(flags) is int
        and type(epoch) is int
        and type(method) is str
        and type(remaining) is int
        and (head is None or type(head) is bytes)
        and type(ctype) is int
        and type(payload) is bytes
        and (extras is None or type(extras) is dict)
    )


def _is_reply(e: Envelope) -> bool:
    _, flags, rid, head, ctype, payload, extras = e
    return (
        type(rid) is int
        and type(flags) is int
        and (head is None or type(head) is bytes)
        and type(ctype) is int
        and type(payload) is bytes
        and (extras is None or type(extras) is dict)
    )


def _is_error(e: Envelope) -> bool:
    _, _, rid, code, name, message, retryable, retry_after, origin, not_started, data = e
    return (
        type(rid) is int
        and type(code) is int
        and type(name) is str
        and type(message) is str
        and type(retryable) is bool
        and (retry_after is None or type(retry_after) is int)
        and type(origin) is str
        and type(not_started) is bool
        and _is_map(data)
    )


def _is_item(e: Envelope) -> bool:
    _, _, rid, first, ctype, payloads = e
    return (
        type(rid) is int
        and type(first) is int
        and type(ctype) is int
        and type(payloads) is tuple
        and len(payloads) > 0
        and all(type(payload) is bytes for payload in payloads)
    )


def _is_end(e: Envelope) -> bool:
    _, flags, rid, items, head, ctype, payload, extras = e
    return type(items) is int and _is_reply((END, flags, rid, head, ctype, payload, extras))


def _is_credit(e: Envelope) -> bool:
    return len(e) == 5 and all(type(number) is int for number in e[2:])


def _is_chunk(e: Envelope) -> bool:
    return len(e) == 3 and type(e[1]) is int and type(e[2]) is int


def _is_greeting(e: Envelope) -> bool:
    return len(e) == 4 and type(e[3]) is dict


def _is_bare(e: Envelope) -> bool:
    return len(e) == 3 and type(e[2]) is int


def _is_beat(e: Envelope) -> bool:
    return len(e) == 4 and type(e[2]) is int and _is_map(e[3])


def _is_text(e: Envelope) -> bool:
    return len(e) == 4 and type(e[2]) is int and type(e[3]) is str


def _is_blob(e: Envelope) -> bool:
    return len(e) == 4 and type(e[2]) is int and type(e[3]) is bytes


_CHECKS: dict[int, Callable[[Envelope], bool]] = {
    HELLO: _is_greeting,
    HELLO_OK: _is_greeting,
    REQUEST: _is_request,
    REPLY: _is_reply,
    ERROR: _is_error,
    ITEM: _is_item,
    END: _is_end,
    CREDIT: _is_credit,
    CANCEL: _is_bare,
    PING: _is_beat,
    PONG: _is_beat,
    GOAWAY: _is_text,
    BYE: _is_bare,
    REJECT: _is_text,
    CHUNK: _is_chunk,
    REVOKED: _is_blob,
    JOIN: _is_blob,
}


def well_formed(envelope: Any) -> bool:
    """Whether the envelope has the fields of its kind; an unknown kind has none."""
    try:
        return type(envelope) is tuple and type(envelope[0]) is int and _CHECKS[envelope[0]](envelope)
    except (KeyError, IndexError, TypeError, ValueError):
        return False


def readable(fields: dict[str, Any]) -> bool:
    """Whether a map of data can be packed and read again.

    A map whose keys are numbers packs, but no receiver accepts it, and as it shares a message with
    others it would take them with it. So what people write into such maps is checked where it enters.
    """
    try:
        _unpack(_pack(fields))
    except Exception:  # a value may be any object, and fail in its own way
        return False
    return True


def is_chunk_alone(envelopes: tuple[Envelope, ...]) -> bool:
    """Whether a message is such as may have a second frame."""
    return len(envelopes) == 1 and well_formed(envelopes[0]) and envelopes[0][0] == CHUNK


def announced_size(extras: dict[str, Any] | None) -> int | None:
    """How many bytes of a body follow in chunks; None where that is not said."""
    size = extras.get("size") if extras is not None else None
    return size if type(size) is int and size > 0 else None


def pack_head(head: dict[str, Any]) -> bytes:
    """A head by itself; raises TypeError, ValueError or OverflowError for what it cannot carry."""
    return _pack(head)


def unpack_head(head: bytes | None) -> dict[str, Any]:
    """A head as a map; raises ValueError for everything that is none."""
    if head is None:
        return {}
    try:
        fields = _unpack_body(head)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    if type(fields) is not dict:
        raise ValueError("a head is a map")
    return fields


def pack_body(body: Any, content_type: int = MSGPACK) -> bytes:
    """A body as payload bytes; raises TypeError, ValueError or OverflowError for what it cannot carry."""
    if content_type == MSGPACK:
        return _pack(body)
    if content_type == JSON:
        return msgspec.json.encode(body)
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise TypeError("a raw body must be bytes")


def unpack_body(payload: Payload, content_type: int = MSGPACK) -> Any:
    """Payload bytes as a body; raises ValueError for everything that is malformed."""
    if content_type == OCTETS:
        return payload
    try:
        if content_type == MSGPACK:
            return _unpack_body(payload)
        if content_type == JSON:
            return msgspec.json.decode(payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    raise ValueError(f"unknown content type {content_type}")
