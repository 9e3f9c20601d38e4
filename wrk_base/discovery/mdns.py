"""Announcing and hearing workers by multicast DNS. The only file that knows zeroconf.

What is heard is a hint: a crashed worker's record lives for up to 75 minutes, anybody on the LAN can
forge a goodbye, and nothing here may block or be flooded. So the library's callback only notes a name;
a drain in the next tick reads it from the library's cache, where an honest announcement is complete;
only what is incomplete is asked for, by at most 8 tasks at a time. Every collection is bounded, and
what a bound dropped comes back with the next `sweep`.

Questions are asked as QM (answers by multicast): a unicast answer would reach one process of a host
only. Names hold a random epoch, so the probing for conflicts (1.2 s) is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from zeroconf import (  # type: ignore[attr-defined]  # DNSPointer is exported, but missing in __all__
    DNSPointer,
    DNSQuestionType,
    Error,
    IPVersion,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
    current_time_millis,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from wrk_base.errors import StartError

from . import DiscoveryFailed, Found, OnFound
from .addresses import Interface, interfaces_of
from .advert import SERVICE_TYPE, Advert, is_loopback
from .hearsay import Hearsay

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MAX_PENDING = 4096  # names noted between two ticks; a flood of more is left to the next sweep
DRAIN_BUDGET = 32  # names read in one go, some 50 us each, so that the loop serves others in between
MAX_ASKING = 256  # incomplete names waiting to be asked for; a flood of more is left to the next sweep
ASKING_AT_ONCE = 8
ASK_TIMEOUT_MS = 3000
TYPE_PTR, CLASS_IN = 12, 1  # RFC 1035
QUIET_UP_TO = 256  # answers known up to which the library lets one asker a second speak for all


def question_every(known: int) -> int:
    """How many sweeps go by to one question when the answers to it are `known` already.

    A question carries the known answers (some 25 a packet). Up to 256 of them, a member that has just
    heard the same question keeps silent; beyond, each asks for itself, so that 1,000 members sweeping
    every 10 s would send 4,000 packets a second. From there on questions thin out as the mesh grows, up
    to one in 10 minutes; newcomers announce themselves, so only a lost packet waits that long.
    """
    return 1 if known <= QUIET_UP_TO else min(known // 16, 60)


class MdnsDiscovery:
    """One mesh on one interface (an address, an interface's name, or 0.0.0.0 for every LAN)."""

    name = "mdns"

    def __init__(self, mesh: str, interface: str, log: FilteringBoundLogger) -> None:
        self._interface = interface
        self._log = log
        self._hearsay = Hearsay(mesh, log)
        self._dropped = 0
        self._listening: list[Interface] = []
        self._advert: Advert | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._announcing: asyncio.Future[None] | None = None
        self._pending: dict[str, ServiceStateChange] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._ask_slots = asyncio.Semaphore(ASKING_AT_ONCE)
        self._sweeps = 0
        self._one_at_a_time = asyncio.Lock()  # a rescan that outlived the stop would leave sockets behind

    async def start(self, advert: Advert | None, on_found: OnFound, on_gone: OnFound) -> None:
        async with self._one_at_a_time:
            self._advert = advert
            try:
                with _failures_of("cannot use multicast DNS"):
                    self._listening = interfaces_of(self._interface)
                    self._hearsay.begin(advert, self._listening[0].address, on_found, on_gone)
                    await self._open(advert)
            except DiscoveryFailed:
                await self._close()
                raise

    async def _open(self, advert: Advert | None) -> None:
        self._zeroconf = opened = AsyncZeroconf(interfaces=self._addresses(), ip_version=IPVersion.V4Only)
        core = opened.zeroconf
        await core.async_wait_for_start()
        if not core.engine.senders:  # the library skips what has no multicast without a word
            raise DiscoveryFailed(f"no multicast on {', '.join(self._addresses())}")
        self._browser = AsyncServiceBrowser(
            core, SERVICE_TYPE, handlers=[self._note_change], question_type=DNSQuestionType.QM
        )
        if advert is not None:
            announcing = await opened.async_register_service(_service(advert), cooperating_responders=True)
            self._announcing = asyncio.ensure_future(announcing)

    async def stop(self) -> None:
        async with self._one_at_a_time:
            await self._close()

    async def _close(self) -> None:
        opened, self._zeroconf = self._zeroconf, None
        if opened is None:
            return
        try:
            if self._browser is not None:
                await self._browser.async_cancel()
            await self._end_tasks()
            await opened.async_unregister_all_services()  # three goodbyes within 0.25 s
        finally:
            self._browser = self._announcing = None
            self._pending.clear()
            await opened.async_close()

    async def _end_tasks(self) -> None:
        """Before the goodbye: an announcement that is still under way would undo it."""
        tasks: list[asyncio.Future[None]] = [*self._asking.values()]
        if self._announcing is not None:
            tasks.append(self._announcing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def known(self) -> list[Found]:
        return self._hearsay.known()

    def counters(self) -> dict[str, int]:
        return {**self._hearsay.counters(), "dropped": self._dropped}

    # --- hearing

    def _note_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """The library's callback, in the middle of its packet."""
        self._note(name.lower(), state_change)  # DNS names have no case

    def _note(self, name: str, change: ServiceStateChange) -> None:
        if name not in self._pending and len(self._pending) >= MAX_PENDING:
            self._dropped += 1
            return
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._drain)
        self._pending[name] = change

    def _drain(self) -> None:
        if self._zeroconf is None:
            return
        try:
            for name in list(islice(self._pending, DRAIN_BUDGET)):
                if self._pending.pop(name) is ServiceStateChange.Removed:
                    self._hearsay.forget(name)
                else:
                    self._look_up(self._zeroconf.zeroconf, name)
        finally:  # whatever one name did, the next ones are read
            if self._pending:
                asyncio.get_running_loop().call_soon(self._drain)

    def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        """From the cache if it is all there, else by asking."""
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
        except Error:
            self._refuse(zeroconf, name)
            return
        if info.load_from_cache(zeroconf):
            self._settle(name, info)
        elif name not in self._asking and len(self._asking) < MAX_ASKING:
            self._asking[name] = task = asyncio.create_task(self._ask(zeroconf, name, info))
            task.add_done_callback(lambda _: self._asking.pop(name))
        elif name not in self._asking:
            self._dropped += 1

    def _refuse(self, zeroconf: Zeroconf, name: str) -> None:
        """A pointer of our type to a name that no service can have.

        It must leave the cache: as a known answer it would be written into the next question, and one
        that cannot be written (a label of 63 bytes that are not UTF-8 grows to 189) ends the library's
        asking for good (seen with zeroconf 0.154).
        """
        self._hearsay.refuse(name, "not an instance name")
        pointer = zeroconf.cache.async_get_unique(DNSPointer(SERVICE_TYPE, TYPE_PTR, CLASS_IN, 0, name))
        if pointer is not None:
            zeroconf.cache.async_remove_records([pointer])

    async def _ask(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        async with self._ask_slots:
            try:
                complete = await info.async_request(zeroconf, ASK_TIMEOUT_MS, DNSQuestionType.QM)
            except Error:  # its records name a host that cannot be asked for
                self._refuse(zeroconf, name)
                return
        if complete:
            self._settle(name, info)

    def _settle(self, name: str, info: ServiceInfo) -> None:
        self._hearsay.hear(name, info.properties, info.parsed_addresses(), info.port)

    # --- sweeping

    async def sweep(self) -> None:
        async with self._one_at_a_time:
            if self._zeroconf is None or self._browser is None:
                return
            with _failures_of("multicast DNS stopped working"):
                await self._rescan(self._zeroconf)
                self._ask_again(self._browser)
            for name in self._zeroconf.zeroconf.cache.names():
                if name.endswith(f".{SERVICE_TYPE}") and name not in self._hearsay:
                    self._note(name, ServiceStateChange.Updated)

    def _ask_again(self, browser: AsyncServiceBrowser) -> None:
        self._sweeps += 1
        if self._sweeps % question_every(len(self._hearsay)) == 0:
            scheduler = browser.query_scheduler
            scheduler.async_send_ready_queries(False, current_time_millis(), {SERVICE_TYPE})

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
        self._log.info("discovery.interfaces_changed", before=before, after=now)
        await self._reopen(opened, kept=[entry.address for entry in now if entry in before])
        self._check_own_address()

    async def _reopen(self, opened: AsyncZeroconf, kept: list[str]) -> None:
        # In two steps: the library compares addresses only, and would keep the dead socket of an
        # interface that came back with the same one.
        await opened.async_update_interfaces(kept)
        await opened.async_update_interfaces(self._addresses())

    def _check_own_address(self) -> None:
        if self._advert is not None and self._advert.host not in self._addresses():
            self._log.warning(
                "discovery.address_lost",
                address=self._advert.host,
                advice="peers cannot reach this process until it is started again",
            )

    def _addresses(self) -> list[str]:
        return [entry.address for entry in self._listening]


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
