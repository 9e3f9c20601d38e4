"""Announcing and hearing workers by multicast DNS. The only file that knows zeroconf.

What is heard is a rumour: a crashed worker's record lives for up to 75 minutes, anybody on the LAN can
forge what it likes at any rate, and nothing here may block, be flooded or go deaf. So packets do not go to
the library as they come. A door in front of each of its sockets lets questions about our service through,
within the limits of `gate.py`, and reads responses itself: an honest one is complete in one packet, and
is judged by `hearsay.py` on nothing but that packet, so that nobody can add to it or hide it. Of what is
worth remembering the library gets the pointer alone. It uses that to list it as known in questions, to
ask again before it expires, and to tell when it was withdrawn; its cache holds nothing that anybody could
fill, and what it holds decides nothing.

Withdrawn is a rumour, too: those left are asked about a second later, so a forged goodbye is mended soon.
Strangers are listed as known to keep them silent, and forgotten every sixth question, so that nobody who
uses another's name silences it for more than a minute.

Questions are asked as QM (answers by multicast): a unicast answer would reach one process of a host
only. Names hold a random epoch, so the probing for conflicts (1.2 s) is skipped.
"""

from __future__ import annotations

import asyncio
import ipaddress
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from zeroconf import (  # type: ignore[attr-defined]  # DNSPointer and others are exported, but not in __all__
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSQuestionType,
    DNSRecord,
    DNSService,
    DNSText,
    Error,
    IPVersion,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
    current_time_millis,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from wrk_base.errors import StartError

from . import DiscoveryFailed, Found, OnFound, OtherMesh
from .addresses import Interface, interfaces_of
from .advert import SERVICE_TYPE, Advert, is_loopback, split_txt
from .gate import Gate, is_question
from .hearsay import Hearsay
from .reach import Network, Reach

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from wrk_base.security.seal import Seal

MARKS = (b"\x04_wrk\x04_tcp", b"\x07_dns-sd")  # our service, and the question which services there are
ENUMERATION = "_services._dns-sd._udp.local."  # RFC 6763 section 9
TYPE_PTR, CLASS_IN = 12, 1  # RFC 1035
RESPONSE = 0x8400  # flags of an answer with authority, RFC 6762 section 18
POINTER_SECONDS = 4500  # RFC 6762 section 10; a longer life is nobody's of ours
QUIET_UP_TO = 256  # answers known up to which the library lets one asker a second speak for all
AFRESH_EVERY = 6  # questions from one that takes no stranger's word to the next
DOUBT_SECONDS, DOUBT_SPREAD = 1.0, 5.0  # from a goodbye to the question after it; the spread in large meshes


def question_every(known: int) -> int:
    """How many sweeps go by to one question when the answers to it are `known` already.

    A question carries the known answers (some 25 a packet). Up to 256 of them, a member that has just
    heard the same question keeps silent; beyond, each asks for itself, so that 1,000 members sweeping
    every 10 s would send 4,000 packets a second. From there on questions thin out as the mesh grows, up
    to one in 10 minutes; newcomers announce themselves, so only a lost packet waits that long.
    """
    return 1 if known <= QUIET_UP_TO else min(known // 16, 60)


class MdnsDiscovery:
    """One mesh on one interface (an address, an interface's name, or 0.0.0.0 for every LAN).

    With a `seal` only what members of the mesh `mesh_id` announce is found. `ranges` are the networks in
    which peers may be; by default private ones and those of the interface.
    """

    name = "mdns"

    def __init__(
        self,
        mesh: str,
        interface: str,
        log: FilteringBoundLogger,
        seal: Seal | None = None,
        mesh_id: bytes = b"",
        ranges: Sequence[Network] = (),
    ) -> None:
        self._interface = interface
        self._log = log
        self._ranges = ranges
        self._hearsay = Hearsay(mesh, log, seal, mesh_id)
        self._gate = Gate(MARKS)
        self._listening: list[Interface] = []
        self._advert: Advert | None = None
        self._own_records: set[DNSRecord] = set()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._announcing: asyncio.Future[None] | None = None
        self._doubt: asyncio.TimerHandle | None = None
        self._sweeps = self._questions = 0
        self._one_at_a_time = asyncio.Lock()  # a rescan that outlived the stop would leave sockets behind

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        async with self._one_at_a_time:
            self._advert = advert
            try:
                with _failures_of("cannot use multicast DNS"):
                    self._listening = interfaces_of(self._interface)
                    self._hearsay.begin(advert, self._reach(), on_found, on_gone)
                    await self._open(advert)
            except DiscoveryFailed:
                await self._close()
                raise

    async def _open(self, advert: Advert | None) -> None:
        service = None if advert is None else _service(advert)
        self._own_records = set() if service is None else _records_of(service)
        self._zeroconf = opened = AsyncZeroconf(interfaces=self._addresses(), ip_version=IPVersion.V4Only)
        core = opened.zeroconf
        await core.async_wait_for_start()
        if not core.engine.senders:  # the library skips what has no multicast without a word
            raise DiscoveryFailed(f"no multicast on {', '.join(self._addresses())}")
        self._mind_the_doors(core)
        self._browser = AsyncServiceBrowser(
            core, SERVICE_TYPE, handlers=[self._note_change], question_type=DNSQuestionType.QM
        )
        if service is not None:
            announcing = await opened.async_register_service(service, cooperating_responders=True)
            self._announcing = asyncio.ensure_future(announcing)

    async def stop(self) -> None:
        async with self._one_at_a_time:
            await self._close()

    async def _close(self) -> None:
        opened, self._zeroconf = self._zeroconf, None
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None
        if opened is None:
            return
        try:
            if self._browser is not None:
                await self._browser.async_cancel()
            await self._end_announcing()
            await opened.async_unregister_all_services()  # three goodbyes within 0.25 s
        finally:
            self._browser = None
            await opened.async_close()

    async def _end_announcing(self) -> None:
        """Before the goodbye: an announcement that is still under way would undo it."""
        announcing, self._announcing = self._announcing, None
        if announcing is not None:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)

    def known(self) -> list[Found]:
        return self._hearsay.known()

    def counters(self) -> dict[str, int]:
        return {**self._hearsay.counters(), "dropped": self._gate.dropped}

    def strangers(self) -> list[OtherMesh]:
        return self._hearsay.strangers()

    # --- hearing

    def _mind_the_doors(self, core: Zeroconf) -> None:
        for reader in core.engine.readers:
            inside = reader.transport.get_protocol()
            if not isinstance(inside, _Door):
                reader.transport.set_protocol(_Door(inside, self._admit))
        self._tidy(core)  # what came in before there was a door

    def _admit(self, packet: bytes, source: str) -> Iterator[bytes]:
        """What the library gets of a packet: all, nothing, or a packet with what is worth remembering."""
        now = asyncio.get_running_loop().time()
        if self._zeroconf is None or not self._gate.admits(packet, source, now):
            return
        if is_question(packet):
            yield packet
            return
        message = DNSIncoming(packet)
        records = message.answers() if message.valid else []
        if records and self._own_records.issuperset(records):
            yield packet  # our own voice: the library looks there how lately it has answered
            return
        kept = [pointer for pointer in _pointers(records) if self._hear(pointer, records, now)]
        if kept:
            yield from _response(kept)

    def _hear(self, pointer: DNSPointer, records: list[DNSRecord], now: float) -> bool:
        """Whether this pointer to a worker, announced among `records`, is worth remembering."""
        name = pointer.alias.lower()  # DNS names have no case
        if not pointer.ttl:
            return name in self._hearsay
        about = [record for record in records if record.ttl and record.name.lower() == name]
        service = next((record for record in about if isinstance(record, DNSService)), None)
        text = next((record for record in about if isinstance(record, DNSText)), None)
        if service is None or text is None:
            self._hearsay.refuse(name, "announced without its service and text")
            return False
        addresses = list(_addresses_of(service.server.lower(), records))
        return self._hearsay.hear(name, split_txt(text.text), addresses, service.port, now)

    def _note_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """The library's callback: of what it remembers, something was withdrawn or has expired."""
        if state_change is ServiceStateChange.Removed:
            self._hearsay.forget(name.lower())
            if self._doubt is None and len(self._hearsay) <= QUIET_UP_TO:  # else it is left to the sweeps
                loop = asyncio.get_running_loop()
                self._doubt = loop.call_later(self._doubt_after(), self._ask_those_who_left)

    def _doubt_after(self) -> float:
        """Members of a large mesh do not all ask at once: the first question speaks for the others."""
        label = "" if self._advert is None else self._advert.label
        share = zlib.crc32(label.encode()) / 2**32
        return DOUBT_SECONDS + DOUBT_SPREAD * share * len(self._hearsay) / QUIET_UP_TO

    # --- asking

    def _ask_those_who_left(self) -> None:
        self._doubt = None
        if self._zeroconf is not None and self._browser is not None:
            self._ask(self._zeroconf.zeroconf, self._browser)

    def _ask(self, core: Zeroconf, browser: AsyncServiceBrowser) -> None:
        """Who is there, but for those that are known."""
        self._questions += 1
        if self._questions % AFRESH_EVERY == 0:
            self._hearsay.forget_strangers()
            core.question_history.clear()  # a question that only we were sent must not keep us silent
        self._tidy(core)
        browser.query_scheduler.async_send_ready_queries(False, current_time_millis(), {SERVICE_TYPE})

    def _tidy(self, core: Zeroconf) -> None:
        """Let the library forget what the hearsay does not know, so that questions ask for it."""
        own = "" if self._advert is None else f"{self._advert.label}.{SERVICE_TYPE}".lower()
        for pointer in _pointers(core.cache.entries_with_name(SERVICE_TYPE)):
            if pointer.alias.lower() not in self._hearsay and pointer.alias.lower() != own:
                core.cache.async_remove_records([pointer])
                if self._browser is not None:
                    self._browser.query_scheduler.cancel_ptr_refresh(pointer)

    async def sweep(self) -> None:
        async with self._one_at_a_time:
            if self._zeroconf is None or self._browser is None:
                return
            with _failures_of("multicast DNS stopped working"):
                await self._rescan(self._zeroconf)
                self._sweeps += 1
                if self._sweeps % question_every(len(self._hearsay)) == 0:
                    self._ask(self._zeroconf.zeroconf, self._browser)

    async def _rescan(self, opened: AsyncZeroconf) -> None:
        """Follow interfaces that came, went or were plugged in again; none at all keeps what there is."""
        if is_loopback(self._interface):
            return
        try:
            now = await asyncio.get_running_loop().run_in_executor(None, interfaces_of, self._interface)
        except StartError:
            return
        before = self._listening
        if set(now) == set(before):
            return
        self._listening = now
        self._hearsay.look_from(self._reach())
        self._log.info("discovery.interfaces_changed", before=before, after=now)
        await self._reopen(opened, kept=[entry.address for entry in now if entry in before])
        self._check_own_address()

    async def _reopen(self, opened: AsyncZeroconf, kept: list[str]) -> None:
        # In two steps: the library compares addresses only, and would keep the dead socket of an
        # interface that came back with the same one.
        await opened.async_update_interfaces(kept)
        await opened.async_update_interfaces(self._addresses())
        self._mind_the_doors(opened.zeroconf)

    def _check_own_address(self) -> None:
        if self._advert is not None and self._advert.host not in self._addresses():
            self._log.warning(
                "discovery.address_lost",
                address=self._advert.host,
                advice="peers cannot reach this process until it is started again",
            )

    def _addresses(self) -> list[str]:
        return [entry.address for entry in self._listening]

    def _reach(self) -> Reach:
        port = 0 if self._advert is None else self._advert.port
        return Reach([entry.network for entry in self._listening], port, self._ranges)


class _Door(asyncio.DatagramProtocol):
    """Stands before one socket's reader in the library, which gets only what `admit` makes of a packet."""

    def __init__(self, inside: asyncio.BaseProtocol, admit: Callable[[bytes, str], Iterator[bytes]]) -> None:
        self._inside = cast("asyncio.DatagramProtocol", inside)
        self._admit = admit

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for packet in self._admit(data, addr[0]):
            self._inside.datagram_received(packet, addr)

    def error_received(self, exc: Exception) -> None:
        self._inside.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inside.connection_lost(exc)


@contextmanager
def _failures_of(doing: str) -> Iterator[None]:
    """Foreign errors end here."""
    try:
        yield
    except (OSError, RuntimeError, Error, StartError) as error:
        raise DiscoveryFailed(f"{doing}: {error or type(error).__name__}") from error


def _service(advert: Advert) -> ServiceInfo:
    return ServiceInfo(
        SERVICE_TYPE,
        f"{advert.label}.{SERVICE_TYPE}",
        port=advert.port,
        properties=advert.to_txt(),
        server=f"{advert.label}.local.",
        parsed_addresses=[advert.host],
    )


def _records_of(service: ServiceInfo) -> set[DNSRecord]:
    """All that is ever answered for it."""
    kind = DNSPointer(ENUMERATION, TYPE_PTR, CLASS_IN, POINTER_SECONDS, SERVICE_TYPE)
    hosts = service.get_address_and_nsec_records()
    return {kind, service.dns_pointer(), service.dns_service(), service.dns_text(), *hosts}


def _pointers(records: Sequence[DNSRecord]) -> Iterator[DNSPointer]:
    """Those to instances of our service."""
    for record in records:
        if isinstance(record, DNSPointer) and record.name.lower() == SERVICE_TYPE:
            yield record


def _addresses_of(host: str, records: Sequence[DNSRecord]) -> Iterator[str]:
    """As text; one of a length that no address has is empty."""
    for record in records:
        if isinstance(record, DNSAddress) and record.ttl and record.name.lower() == host:
            try:
                yield str(ipaddress.ip_address(record.address))
            except ValueError:
                yield ""


def _response(pointers: Sequence[DNSPointer]) -> list[bytes]:
    """The packets of nothing but these."""
    message = DNSOutgoing(RESPONSE)
    for pointer in pointers:
        seconds = min(pointer.ttl, POINTER_SECONDS)
        kept = DNSPointer(SERVICE_TYPE, TYPE_PTR, CLASS_IN, seconds, pointer.alias)
        message.add_answer_at_time(kept, 0)
    return message.packets()
