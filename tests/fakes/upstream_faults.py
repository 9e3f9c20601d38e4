"""The ways in which a server, or what stands in front of it, misbehaves: each answers one inference.

`UNARY` are met by who asks for one answer, `STREAMS` by who asks for a stream; those in `SILENT` say too
little for anything but the deadline of the request to notice.
"""

from __future__ import annotations

import asyncio
import zlib

from tests.fakes.upstream import JSON, SSE, Fault, Visitor

GOOD = b'{"id":"c1","object":"chat.completion","choices":[]}'
CHUNK = (
    b'data: {"id":"c1","object":"chat.completion.chunk","model":"m1",'
    b'"choices":[{"index":0,"delta":{"content":"one "},"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"
LOT = 65_536
SLOWLY = 0.005


async def refuses_by_reset(visitor: Visitor) -> None:
    visitor.reset()


async def closes_unanswered(visitor: Visitor) -> None:
    visitor.writer.close()


async def is_silent(visitor: Visitor) -> None:
    await visitor.hang()


async def speaks_something_else(visitor: Visitor) -> None:
    await visitor.say(b"220 mail.example ESMTP\r\n")
    await visitor.hang()


async def sends_interim_for_ever(visitor: Visitor) -> None:
    while True:
        await visitor.say(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 1000)


async def switches_protocols(visitor: Visitor) -> None:
    await visitor.head("101 Switching Protocols", "connection: upgrade", "upgrade: websocket")
    await visitor.hang()


async def sends_a_header_without_end(visitor: Visitor) -> None:
    await visitor.say(b"HTTP/1.1 200 OK\r\nx-long: ")
    while True:
        await visitor.say(b"a" * LOT)


async def sends_headers_without_end(visitor: Visitor) -> None:
    await visitor.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        await visitor.say(b"x-more: a\r\n" * 5000)


async def sends_two_lengths(visitor: Visitor) -> None:
    await visitor.head("200 OK", "content-length: 2", "content-length: 3", f"content-type: {JSON}")
    await visitor.say(b"{} ")


async def sends_length_and_chunks(visitor: Visitor) -> None:
    await visitor.head("200 OK", "content-length: 2", "transfer-encoding: chunked", f"content-type: {JSON}")
    await visitor.chunk(GOOD)
    await visitor.end()


async def redirects(visitor: Visitor) -> None:
    where = f"location: {visitor.upstream.url}/v1/chat/completions"
    await visitor.whole(b"", "302 Found", JSON, where)


async def answers_nothing(visitor: Visitor) -> None:
    await visitor.head("204 No Content")


async def answers_an_empty_body(visitor: Visitor) -> None:
    await visitor.whole(b"")


async def answers_a_page(visitor: Visitor) -> None:
    await visitor.whole(b"<html>Welcome to nginx</html>", kind="text/html")


async def answers_broken_json(visitor: Visitor) -> None:
    await visitor.whole(GOOD[:-3])


async def answers_two_values(visitor: Visitor) -> None:
    await visitor.whole(GOOD + GOOD)


async def answers_no_text(visitor: Visitor) -> None:
    await visitor.whole(b'{"choices":[{"message":{"content":"\xff\xfe"}}]}')


async def answers_deep_json(visitor: Visitor) -> None:
    await visitor.whole(b"[" * 100_000 + b"]" * 100_000)


async def answers_200_with_an_error(visitor: Visitor) -> None:
    await visitor.whole(b'{"error":{"message":"model is broken","code":500}}')


async def announces_too_much(visitor: Visitor) -> None:
    await visitor.head("200 OK", f"content-length: {len(GOOD) + 10}", f"content-type: {JSON}")
    await visitor.say(GOOD)
    visitor.writer.close()


async def announces_too_little(visitor: Visitor) -> None:
    await visitor.head("200 OK", f"content-length: {len(GOOD) - 10}", f"content-type: {JSON}")
    await visitor.say(GOOD)


async def breaks_off(visitor: Visitor) -> None:
    await visitor.begin(JSON)
    await visitor.chunk(GOOD[:20])
    visitor.reset()


async def packs_a_bomb(visitor: Visitor) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(bytes(10_000_000)) + packer.flush()
    await visitor.whole(packed, "200 OK", JSON, "content-encoding: gzip")


async def sends_garbage_for_chunks(visitor: Visitor) -> None:
    await visitor.begin(JSON)
    await visitor.say(b"zz\r\nnot a chunk\r\n")
    await visitor.hang()


async def sends_a_chunk_that_lies(visitor: Visitor) -> None:
    await visitor.begin(JSON)
    await visitor.say(b"5\r\n" + GOOD + b"\r\n0\r\n\r\n")


async def sends_notes_on_chunks_without_end(visitor: Visitor) -> None:
    await visitor.begin(JSON)
    await visitor.say(b"1;note=")
    while True:
        await visitor.say(b"a" * LOT)


async def sends_trailers_without_end(visitor: Visitor) -> None:
    await visitor.begin(JSON)
    await visitor.chunk(GOOD)
    await visitor.say(b"0\r\n")
    while True:
        await visitor.say(b"x-more: a\r\n" * 5000)


async def sends_a_body_without_end(visitor: Visitor) -> None:
    await visitor.begin(JSON)
    await visitor.chunk(b'{"text":"')
    while True:
        await visitor.chunk(b"a" * LOT)


async def sends_a_body_until_it_closes(visitor: Visitor) -> None:
    await visitor.say(b"HTTP/1.0 200 OK\r\n\r\n")
    while True:
        await visitor.say(b"a" * LOT)


async def stops_in_a_body(visitor: Visitor) -> None:
    await visitor.begin(JSON)
    await visitor.chunk(GOOD[:20])
    await visitor.hang()


async def sends_byte_by_byte(visitor: Visitor) -> None:
    await visitor.head("200 OK", "content-length: 1000000", f"content-type: {JSON}")
    while True:
        await visitor.say(b" ")
        await asyncio.sleep(SLOWLY)


# --- streams


async def streams_no_stream(visitor: Visitor) -> None:
    await visitor.whole(GOOD)


async def streams_nothing(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.end()


async def streams_and_resets(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK)
    await visitor.chunk(CHUNK[:40])
    visitor.reset()


async def streams_and_closes(visitor: Visitor) -> None:
    await visitor.head("200 OK", f"content-type: {SSE}", "connection: close")
    await visitor.say(CHUNK + CHUNK[:40])
    visitor.writer.close()


async def streams_without_done(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK)
    await visitor.end()


async def streams_broken_json(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK + CHUNK[:40] + b"\n\n" + DONE)
    await visitor.end()


async def streams_no_text(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK + b'data: {"x":"\xff"}\n\n' + DONE)
    await visitor.end()


async def streams_an_error(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK + b'data: {"error":{"message":"out of memory","code":503}}\n\n' + DONE)
    await visitor.end()


async def streams_an_error_among_other_things(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK + b'event: error\ndata: {"id":"c1","choices":[],"error":"no"}\n\n')
    await visitor.end()


async def streams_a_line_without_end(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK + b"data: ")
    while True:
        await visitor.chunk(b"a" * LOT)


async def streams_a_long_event(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK + b'data: "' + b"a" * 300_000 + b'"\n\n' + DONE)
    await visitor.end()


async def streams_without_end(visitor: Visitor) -> None:
    await visitor.begin()
    while True:
        await visitor.chunk(CHUNK * 200)


async def streams_comments_without_end(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK)
    while True:
        await visitor.chunk(b": ping\n\n" * 8000)


async def streams_and_is_silent(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK)
    await visitor.hang()


async def streams_garbage_for_chunks(visitor: Visitor) -> None:
    await visitor.begin()
    await visitor.chunk(CHUNK)
    await visitor.say(b"zz\r\nnot a chunk\r\n")
    await visitor.hang()


def _by_name(*faults: Fault) -> dict[str, Fault]:
    return {fault.__name__: fault for fault in faults}


HEADS = _by_name(
    refuses_by_reset,
    closes_unanswered,
    speaks_something_else,
    sends_interim_for_ever,
    switches_protocols,
    sends_a_header_without_end,
    sends_headers_without_end,
    sends_two_lengths,
    sends_length_and_chunks,
    redirects,
    answers_nothing,
    answers_a_page,
    packs_a_bomb,
)
"""Met by everybody who asks."""

UNARY = HEADS | _by_name(
    answers_an_empty_body,
    answers_broken_json,
    answers_two_values,
    answers_no_text,
    answers_deep_json,
    answers_200_with_an_error,
    announces_too_much,
    announces_too_little,
    breaks_off,
    sends_garbage_for_chunks,
    sends_a_chunk_that_lies,
    sends_notes_on_chunks_without_end,
    sends_trailers_without_end,
    sends_a_body_without_end,
    sends_a_body_until_it_closes,
    stops_in_a_body,
)

STREAMS = HEADS | _by_name(
    streams_no_stream,
    streams_nothing,
    streams_and_resets,
    streams_and_closes,
    streams_without_done,
    streams_broken_json,
    streams_no_text,
    streams_an_error,
    streams_an_error_among_other_things,
    streams_a_line_without_end,
    streams_a_long_event,
    streams_without_end,
    streams_comments_without_end,
    streams_and_is_silent,
    streams_garbage_for_chunks,
)

SILENT = _by_name(is_silent, sends_byte_by_byte)
