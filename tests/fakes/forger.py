"""Somebody on the network who writes mDNS packets by hand, honest-looking or not. Loopback only.

`Forger` is a socket of the multicast group: it hears everybody and sends what it likes, from any
loopback address. `flood` is the same as a process of its own, which sends by a plan and ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

from wrk_base.discovery.advert import SERVICE_TYPE, Advert

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
GROUP = ("224.0.0.251", 5353)
TYPE = tuple(SERVICE_TYPE.encode().strip(b".").split(b"."))
PTR, TXT, SRV, A = 12, 16, 33, 1
TTL = 4500


class Forger:
    """Use it as a context manager."""

    def __init__(self, source: str = HOST) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST))
        if source == HOST:
            self._sock.bind(("", GROUP[1]))
            membership = socket.inet_aton(GROUP[0]) + socket.inet_aton(HOST)
            self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        else:
            self._sock.bind((source, 0))
        self._sock.setblocking(False)

    def __enter__(self) -> Forger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def send(self, *records: bytes) -> None:
        """One response of these records."""
        self.send_packet(response(*records))

    def send_packet(self, packet: bytes) -> None:
        try:
            self._sock.sendto(packet, GROUP)
        except BlockingIOError:
            pass  # it sends faster than loopback takes

    def announce(self, advert: Advert) -> None:
        self.send(*announcement(advert))

    def say_goodbye_for(self, advert: Advert) -> None:
        self.send(pointer(advert.label.encode(), ttl=0))

    def heard(self) -> Iterator[bytes]:
        """What has arrived."""
        while True:
            try:
                yield self._sock.recv(9000)
            except BlockingIOError:
                return


def dns_name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(labels: tuple[bytes, ...], kind: int, data: bytes, ttl: int = TTL) -> bytes:
    return dns_name(*labels) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def pointer(label: bytes, ttl: int = TTL) -> bytes:
    return record(TYPE, PTR, dns_name(label, *TYPE), ttl)


def address(label: bytes, host: str) -> bytes:
    return record((label, b"local"), A, socket.inet_aton(host))


def text(label: bytes, *entries: bytes) -> bytes:
    return record((label, *TYPE), TXT, b"".join(bytes([len(entry)]) + entry for entry in entries))


def response(*records: bytes) -> bytes:
    return struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def announcement(advert: Advert, label: bytes = b"") -> list[bytes]:
    """The records of a worker that exists on the wire only; under its own name unless told another."""
    label = label or advert.label.encode()
    service = struct.pack("!3H", 0, 0, advert.port) + dns_name(label, b"local")
    entries = [key.encode() + b"=" + value for key, value in advert.to_txt().items()]
    return [
        pointer(label),
        record((label, *TYPE), SRV, service),
        text(label, *entries),
        address(label, advert.host),
    ]


def many_records(count: int, rng: random.Random) -> bytes:
    """One packet of `count` pointers to names that nobody has, as short as DNS writes them."""
    question = struct.pack("!6H", 0, 0x8400, 0, count, 0, 0)
    first = pointer(b"%016x" % rng.getrandbits(64))
    type_at = struct.pack("!H", 0xC000 | 12)  # where the type's name stands in full
    rest = (
        type_at + struct.pack("!HHIH", PTR, 1, TTL, 19) + b"\x10" + b"%016x" % rng.getrandbits(64) + type_at
        for _ in range(count - 1)
    )
    return question + first + b"".join(rest)


def question(answers: int, rng: random.Random) -> bytes:
    """Who is there, but for so many that nobody knows."""
    known = b"".join(pointer(b"%08x" % rng.getrandbits(32)) for _ in range(answers))
    return struct.pack("!6H", 0, 0, 1, answers, 0, 0) + dns_name(*TYPE) + struct.pack("!HH", PTR, 1) + known


def spoofs(advert: Advert, rng: random.Random) -> Iterator[bytes]:
    """Ever new packets that pretend to be workers of `advert`'s mesh, each wrong in another way."""
    while True:
        name = f"rack-{rng.getrandbits(64):016x}"
        made_up = dataclasses.replace(advert, worker_id=name, port=rng.randrange(1, 65536))
        label = made_up.label.encode()
        service, place, _, host = honest = announcement(made_up)
        yield response(*announcement(dataclasses.replace(made_up, key=f"{rng.getrandbits(320):080x}")))
        yield response(*announcement(dataclasses.replace(made_up, key="")))
        yield response(service, place, text(label, b"\xff" * 20, b"=", b"id", b"v=\x00"), host)
        yield response(service, place, text(label, *(b"x" * 250 for _ in range(30))), host)
        yield response(*honest[:3], address(label, "169.254.169.254"))
        yield response(*announcement(dataclasses.replace(made_up, host="8.8.8.8")))
        yield response(service)
        yield response(*announcement(made_up, label=name[::-1].encode()))


@asynccontextmanager
async def flood(
    kind: str, advert: Advert, *, packets: int, per_second: float, source: str = HOST
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that sends `packets` of a kind for `advert` and ends; leaving the block ends it, too.

    Kinds: spoofs, records, goodbyes, questions. 0 per second is as fast as it goes.
    """
    plan = [kind, repr(dataclasses.astuple(advert)), str(packets), str(per_second), source]
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.forger", *plan, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


def _packets(kind: str, advert: Advert, rng: random.Random) -> Iterator[bytes]:
    if kind == "spoofs":
        yield from spoofs(advert, rng)
    while kind == "records":
        yield many_records(250, rng)
    while kind == "goodbyes":
        yield response(pointer(advert.label.encode(), ttl=0))
    while kind == "questions":
        yield question(rng.randrange(40), rng)


def main(kind: str, fields: str, packets: str, per_second: str, source: str) -> None:
    import ast

    advert = Advert(*ast.literal_eval(fields))
    made, pause = (
        _packets(kind, advert, random.Random(1)),
        1 / float(per_second) if float(per_second) else 0.0,
    )
    begun = time.monotonic()
    with Forger(source) as forger:
        for number in range(int(packets)):
            forger.send_packet(next(made))
            ahead = begun + number * pause - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)


if __name__ == "__main__":
    main(*sys.argv[1:])
