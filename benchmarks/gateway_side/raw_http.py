"""A request as bytes, and a response read from bytes: all the HTTP that the load needs. Pure.

Responses have a length or are chunked, as every gateway here answers; what is read of them is the status,
the header fields and the body without its framing. Nothing but the standard library here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PATH = "/v1/chat/completions"
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    fields: Mapping[str, str]  # names in lower case
    body: bytes


def request(body: bytes, path: str = PATH) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def read(raw: bytes) -> Response | None:
    """The response that `raw` holds; None while it is not whole. Raises `ValueError`."""
    end = raw.find(_HEAD_END)
    if end < 0:
        return None
    first, *lines = raw[:end].decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    framed = raw[end + len(_HEAD_END) :]
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunked(framed)
    elif "content-length" in fields:
        length = int(fields["content-length"])
        body = framed[:length] if len(framed) >= length else None
    else:
        raise ValueError("the response has no length and is not chunked")
    return None if body is None else Response(int(first.split(" ", 2)[1]), fields, body)


def _unchunked(framed: bytes) -> bytes | None:
    """None while the chunk that ends the body is not there."""
    parts: list[bytes] = []
    at = 0
    while (line_end := framed.find(b"\r\n", at)) >= 0:
        size = int(framed[at:line_end].partition(b";")[0], 16)
        begin = line_end + 2
        if len(framed) < begin + size + 2:
            return None
        if not size:
            return b"".join(parts)
        parts.append(framed[begin : begin + size])
        at = begin + size + 2
    return None
