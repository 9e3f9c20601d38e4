"""Opens many streams of a gateway at once and says when their tokens came, in a process of its own.

    python -m benchmarks.gateway_side.stream_load PORT --streams 400 --tokens 200 --over 1.0
    python -m benchmarks.gateway_side.stream_load PORT --streams 100 --tokens 2 --bursts 10

Prints one line of JSON. Raw sockets and no HTTP library, so that it is not what is measured: while a stream
runs a read costs one search for `MARK`. What arrived is kept and counted once more at its end, free of
the framing of chunks, which may stand anywhere. Connections are there before the first request is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from typing import cast

import uvloop

from benchmarks.gateway_side import answers, raw_http
from benchmarks.gateway_side.figures import percentile

MARGIN_SECONDS = 6.0  # beyond the time that the tokens take
LIMIT_SECONDS = 120
_LAST_CHUNK = b"0\r\n\r\n"
_CARRY = len(answers.MARK) - 1


class Caller(asyncio.Protocol):
    """One connection, one stream at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._read: list[bytes] = []
        self._tail = b""
        self._wanted = 0
        self._ended: asyncio.Future[str] | None = None
        self.asked = 0.0
        self.times: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"the connection was lost: {error or 'closed by the gateway'}")

    def ask(self, request: bytes, tokens: int) -> asyncio.Future[str]:
        """Sends it; the result is why the stream is not complete, or nothing."""
        self._read, self._tail, self._wanted, self.times = [], b"", tokens, []
        self._ended = asyncio.get_running_loop().create_future()
        self.asked = time.perf_counter()
        self._transport.write(request)
        return self._ended

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._read.append(data)
        seen = (self._tail + data).count(answers.MARK)
        self._tail = data[-_CARRY:]
        self.times += [now] * seen
        if len(self.times) >= self._wanted or not self.times or data.endswith(_LAST_CHUNK):
            self._judge()

    def _judge(self) -> None:
        try:
            response = raw_http.read(b"".join(self._read))
        except ValueError as error:
            self._end(str(error))
        else:
            if response is not None:
                self._end(answers.stream_fault(response.status, response.body, self._wanted))

    def _end(self, problem: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(problem)

    def close(self) -> None:
        self._transport.abort()


async def _drive(arguments: argparse.Namespace) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    connections = [
        await loop.create_connection(Caller, "127.0.0.1", arguments.port) for _ in range(arguments.streams)
    ]
    callers = [caller for _, caller in connections]
    request = raw_http.request(answers.request(stream=True, tokens=arguments.tokens))
    bound = arguments.over + arguments.tokens / answers.PER_SECOND + MARGIN_SECONDS
    problems: list[str] = []
    firsts: list[float] = []
    gaps: list[float] = []
    begun = time.perf_counter()
    for _ in range(arguments.bursts):
        problems += await asyncio.gather(
            *(
                _one(caller, request, arguments.tokens, number * arguments.over / len(callers), bound)
                for number, caller in enumerate(callers)
            )
        )
        for caller in callers:
            firsts += [caller.times[0] - caller.asked] if caller.times else []
            gaps += (after - before for before, after in zip(caller.times, caller.times[1:], strict=False))
        if any(problems):
            break
    elapsed = time.perf_counter() - begun
    for caller in callers:
        caller.close()
    return _figures(problems, firsts, gaps, elapsed)


async def _one(caller: Caller, request: bytes, tokens: int, after: float, bound: float) -> str:
    if after:
        await asyncio.sleep(after)
    try:
        return await asyncio.wait_for(caller.ask(request, tokens), bound - after)
    except TimeoutError:
        return f"not complete within {bound:.0f} s"


def _figures(
    problems: list[str], firsts: list[float], gaps: list[float], elapsed: float
) -> dict[str, object]:
    broken = [problem for problem in problems if problem]
    return {
        "streams": len(problems),
        "complete": len(problems) - len(broken),
        "problem": broken[0] if broken else "",
        "events": len(firsts) + len(gaps),
        "seconds": elapsed,
        "first_p50_us": percentile(firsts, 50) * 1e6,
        "first_p99_us": percentile(firsts, 99) * 1e6,
        "gap_p50_us": percentile(gaps, 50) * 1e6,
        "gap_p99_us": percentile(gaps, 99) * 1e6,
        "client_cpu_s": time.process_time(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument(
        "--over", type=float, default=0.0, metavar="SECONDS", help="begin one after the other"
    )
    parser.add_argument("--bursts", type=int, default=1)
    arguments = parser.parse_args()
    signal.alarm(LIMIT_SECONDS)
    print(json.dumps(uvloop.run(_drive(arguments))), flush=True)


if __name__ == "__main__":
    main()
