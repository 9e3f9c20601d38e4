"""Keeps an eye on the upstream of one rack: is it there, which models has it, what can they do.

It asks for the list of models all the time. A server that cannot be reached is unhealthy at once, one that
answers wrongly or late after some times in a row, and one good answer makes it well again, however long it
was away. Everything beyond the list is asked once for each model, and nothing depends on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from wrk_base import contract, errors
from wrk_base.rpc.body import Budget

from .openai_models import Offer, merged, read_llama_cpp, read_lm_studio, read_models, read_ollama
from .upstream import Upstream

RETRY_SECONDS = 1.0  # between looks while it is not well: a return is seen within that
LIST_BYTES = 4_194_304  # 1,000 models with all that servers tell of them are some hundreds of kilobytes
DETAIL_SECONDS = 2.0
DETAILS = 64  # models of which more is asked at one look: a server with more is asked again at the next


class UpstreamWatch:
    """`changed` is called when the offer or the health is another than before."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        wanted: list[str],
        every: float,
        timeout: float,
        failures: int,
        held: Budget,
        changed: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._upstream, self._wanted, self._held = upstream, wanted, held
        self._every, self._timeout, self._most_failures = every, timeout, failures
        self._changed, self._log = changed, log
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, contract.ModelFacts] = {}
        self._foreign: set[str] = set()  # what this server has not got
        self._slots = 0
        self._failures = 0
        self._doubt = asyncio.Event()
        self.offer = Offer((), {})
        self.lost: tuple[str, ...] = ()
        """What it had before it was away."""
        self.reason = "it has not answered yet"
        """Why it is not well; empty while it is."""

    async def run(self) -> None:
        """Look again and again; a task of the rack's own."""
        while True:
            try:
                async with asyncio.timeout(RETRY_SECONDS if self.reason or self._failures else self._every):
                    await self._doubt.wait()
            except TimeoutError:
                pass
            self._doubt.clear()
            await self.look()

    def doubt(self) -> None:
        """A request could not reach it: look now."""
        if not self.reason:
            self._doubt.set()

    async def look(self) -> None:
        """Ask once."""
        begun = self._loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                offer = read_models(await self._fetch("/v1/models"), self._wanted)
        except TimeoutError:
            if self._upstream.heard_at < begun:  # else it is busy, and that is not dead
                self._failed(f"{self._upstream.origin.url}/v1/models: no answer within {self._timeout:g} s")
        except ValueError as error:
            self._failed(f"the upstream {self._upstream.origin.url}: {error}")
        except errors.WrkError as error:
            self._failed(error.message, at_once=isinstance(error, errors.Unavailable))
        else:
            self._well(self._with_facts(offer))
            if await self._ask_details(offer):
                self._well(self._with_facts(offer))

    def _failed(self, reason: str, *, at_once: bool = False) -> None:
        self._failures += 1
        if (at_once or self._failures >= self._most_failures or self.reason) and reason != self.reason:
            if not self.reason:
                self._log.warning("upstream.lost", reason=reason)
            self._foreign.clear()  # another server may come in its place
            self._known.clear()
            self.lost = self.offer.models or self.lost
            self.reason, self.offer = reason, Offer((), {})
            self._changed()

    def _well(self, offer: Offer) -> None:
        self._failures = 0
        if self.reason or offer != self.offer:
            self._log.info("upstream.models", models=len(offer.models), upstream=self._upstream.origin.url)
            self.reason, self.offer, self.lost = "", offer, ()
            self._changed()

    # --- what else servers tell; whatever fails is left out

    def _with_facts(self, offer: Offer) -> Offer:
        facts = {name: merged(told, self._known.get(name)) for name, told in offer.facts.items()}
        return Offer(offer.models, facts, self._slots)

    async def _ask_details(self, offer: Offer) -> bool:
        """Whether there was anything to ask."""
        self._known = {name: facts for name, facts in self._known.items() if name in offer.facts}
        news = [name for name in offer.models if name not in self._known][:DETAILS]
        if not news:
            return False
        try:
            async with asyncio.timeout(DETAIL_SECONDS):
                await self._ask_lm_studio()
                await self._ask_llama_cpp(news)
                await self._ask_ollama(news)
        except TimeoutError:
            return True  # it is busy; what is missing is asked at the next look
        for name in news:
            self._known.setdefault(name, contract.ModelFacts())
        return True

    async def _ask_lm_studio(self) -> None:
        body = await self._page("/api/v0/models")
        if body:
            self._known.update(read_lm_studio(body))

    async def _ask_llama_cpp(self, news: list[str]) -> None:
        body = await self._page("/props")
        if body:
            facts, self._slots = read_llama_cpp(body)
            self._known.update({news[0]: facts} if len(news) == 1 else {})

    async def _ask_ollama(self, news: list[str]) -> None:
        for name in news:
            body = await self._page("/api/show", msgspec.json.encode({"model": name}))
            if not body:
                return
            self._known[name] = read_ollama(body)

    async def _page(self, path: str, question: bytes = b"") -> bytes:
        """Empty where the server has no such page."""
        if path in self._foreign:
            return b""
        try:
            return await self._fetch(path, question)
        except (errors.WrkError, ValueError):
            self._foreign.add(path)
            return b""

    async def _fetch(self, path: str, question: bytes = b"") -> bytes:
        """Raises `ValueError` for any status but 200, and `WrkError`."""
        upstream = self._upstream
        asking = upstream.post(path, question, again=True) if question else upstream.get(path)
        with await asking as answer:
            if answer.status in (401, 403):
                raise ValueError(f"{path} answers {answer.status}: it wants another key; see `apiKeyEnv`")
            if answer.status != 200:
                raise ValueError(f"{path} answers {answer.status}")
            return await answer.read(LIST_BYTES, self._held)
