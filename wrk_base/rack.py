"""A worker in front of a model: what the author of a rack subclasses.

The author says what the rack offers (`describe`) and answers one request (`infer`). The base class
does the rest: the methods of every rack, a capacity that is kept, registration with every orchestrator
that is heard, and beats that carry the load and run apart from inference.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from . import contract, errors
from .discovery import Found
from .enrolment import Enrolment
from .repeats import Repeats
from .rpc import wire
from .rpc.request import Caller, Request
from .taking_up import taken_up
from .worker import Worker, WorkerContext

UNREGISTER_SECONDS = 0.5
LOGGED_CHARACTERS = 2000  # of a body, with the setting `log.bodies`
SUCCESS = wire.pack_head({"success": True})


class Rack(Worker):
    """Serves `runInference` for the models of `describe`, at most `maxConcurrent` at a time."""

    role = "rack"

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.running = 0
        self._turned_away: dict[bytes, Caller] = {}
        self._beat_timer: asyncio.TimerHandle | None = None
        self._enrolment = Enrolment(
            peers=self.peers,
            offer=self._registration,
            dialled_back=self._has_caller,
            spawn=self.spawn,
            log=self.log,
        )
        self._repeats = Repeats(
            self.settings.idempotency,
            take_slot=self._take_slot,
            give_slot_back=self._give_slot_back,
            serve=self.serve,
            spawn=self.spawn,
        )
        self.server.piggyback = lambda: {"load": self.load()}
        self.respond("runInference", self._run_inference, raw=True)
        self.respond(
            "getAvailableModels", lambda _: {"success": True, "models": list(self.describe().models)}
        )
        self.respond("checkCapacity", lambda _: {"success": True, **self.load()})
        self.respond("loadModel", self._load_model)
        self.respond("unloadModel", self._unload_model)

    # --- what an author overrides

    @abstractmethod
    def describe(self) -> contract.Description:
        """Models, tags, capacity and labels of this rack."""

    @abstractmethod
    def infer(
        self, model_id: str, input_data: Any, options: contract.RackOptions
    ) -> Awaitable[Any] | AsyncIterator[Any]:
        """The answer to one request: anything that msgpack and JSON can carry.

        A coroutine function returns it whole. An async generator streams it item by item and ends with
        `yield Final(value)`: the whole, for callers who do not stream.

        `options.task` says what is wanted: `raw` is anything that rack and caller agree on; `chat`,
        `completion`, `embedding`, `rerank` and `response` bring the body of OpenAI's endpoint, and want its
        object, or its chunks as items. `racks/openai_replies.py` makes them.

        A rack that says `resumable` may be asked to go on with a stream that another rack of its type began:
        `contract.RackOptions.resume_from` are the items that its caller has. It yields what comes after
        them, and the same `Final` as if it had yielded all; `racks/resuming.py` does that for answers that
        come out the same each time.
        """

    async def serve(self, request: Request, head: contract.RackHead) -> None:
        """Answer one request that was let in. A rack that passes bytes on as they came overrides this."""
        asked = request.data()
        self._log_body("rack.asked", head.model_id, asked)
        answer = self.infer(head.model_id, asked, head.options)
        if isinstance(answer, AsyncIterator):
            await request.produce(answer, {"success": True})
        else:
            value = await answer
            self._log_body("rack.answered", head.model_id, value)
            request.answer_with(SUCCESS, value)

    def offer_changed(self) -> None:
        """Tell every orchestrator at once that `describe` says something else now."""
        self._enrolment.renew()

    async def load_model(self, model_id: str) -> None:
        """Make a listed model ready. A rack whose models are always loaded leaves this as it is."""

    async def unload_model(self, model_id: str) -> None:
        """Give a model's memory back."""
        raise errors.BadRequest(f"this rack keeps {model_id} loaded")

    def absent(self, model_id: str, offer: contract.Description) -> errors.WrkError:
        """The refusal of a request for a model that is not on offer. A rack whose models come and go tells
        one that is away from one that it never had."""
        return errors.ModelNotAvailable(
            f"{self.identity.worker_id} does not serve {model_id}",
            data={"models": list(offer.models[:20])},
            not_started=True,
        )

    # --- methods of a rack

    async def _run_inference(self, request: Request) -> None:
        head = contract.read_rack_head(request.head)
        if head.options.resume_from:
            head = taken_up(request, head, self.describe())
        if head.options.idempotency_key is not None:
            await self._repeats.answer(request, head)
            return
        self._take_slot(request, head)
        try:
            await self.serve(request, head)
        finally:
            self._give_slot_back()

    def _take_slot(self, request: Request, head: contract.RackHead) -> None:
        """Raises what refuses a request."""
        offer = self.describe()
        if head.model_id not in offer.models:
            raise self.absent(head.model_id, offer)
        if self.running >= offer.max_concurrent:
            if request.caller.wants_load:
                self._turned_away[request.caller.routing_id] = request.caller
            raise errors.CapacityExceeded(
                f"{self.identity.worker_id} runs {self.running} of {offer.max_concurrent} requests",
                data={"inFlight": self.running, "maxConcurrent": offer.max_concurrent},
                not_started=True,
                retry_after_ms=100,
            )
        self.running += 1

    def _give_slot_back(self) -> None:
        self.running -= 1
        if self._turned_away:
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        """Who was refused because others had all slots hears at once that one is free, not by a beat."""
        told, self._turned_away = self._turned_away, {}
        for routing_id, caller in told.items():
            if routing_id in self.server.callers:
                self.server.say(caller, (wire.PONG, 0, 0, {"load": self.load()}))

    def _log_body(self, event: str, model_id: str, body: Any) -> None:
        if self.settings.log.bodies:
            self.log.info(event, model=model_id, body=repr(body)[:LOGGED_CHARACTERS])

    async def _load_model(self, body: Any) -> dict[str, Any]:
        model_id = self._listed(body)
        await self.load_model(model_id)
        return {"success": True, "modelId": model_id}

    async def _unload_model(self, body: Any) -> dict[str, Any]:
        model_id = self._listed(body)
        await self.unload_model(model_id)
        return {"success": True, "modelId": model_id}

    def _listed(self, body: Any) -> str:
        model_id = contract.parse(contract.ModelRef, body).model_id
        offer = self.describe()
        models = [*offer.models, *offer.cold]
        if model_id not in models:
            text = f"{self.identity.worker_id} does not serve {model_id}"
            raise errors.ModelNotAvailable(text, data={"models": list(models[:20])})
        return model_id

    def load(self) -> dict[str, Any]:
        """What the rack tells of its load with every message to an orchestrator."""
        capacity = self.describe().max_concurrent
        return {
            "inFlight": self.running,
            "maxConcurrent": capacity,
            "free": max(0, capacity - self.running),
            "lagMs": round(self.lag.last * 1000),
        }

    # --- life in the mesh

    async def on_listening(self) -> None:
        self._beat()

    def on_found(self, found: Found) -> None:
        self._enrolment.hear(found)

    def on_gone(self, found: Found) -> None:
        self._enrolment.unhear(found)

    async def before_drain(self) -> None:
        self._enrolment.close()

    async def after_drain(self) -> None:
        if self._beat_timer is not None:
            self._beat_timer.cancel()
            self._beat_timer = None
        await self._enrolment.unregister(self.identity.worker_id, UNREGISTER_SECONDS)

    def _beat(self) -> None:
        """Sign of life on every orchestrator's own link to this rack: the very path that requests take."""
        interval = self.settings.health.heartbeat_interval / 1000
        self.server.tell((wire.PONG, 0, 0, None), ("orchestrator",), quiet_for=interval / 2)
        self._repeats.expire()
        self._beat_timer = self._loop.call_later(interval, self._beat)

    def _has_caller(self, worker_id: str) -> bool:
        return any(c.info is not None and c.info.worker_id == worker_id for c in self.server.callers.values())

    def _registration(self) -> contract.Registration:
        offer = self.describe()
        return contract.Registration(
            worker_id=self.identity.worker_id,
            address=self.endpoint,
            capabilities=contract.Capabilities(
                models=offer.models,
                tags=offer.tags,
                capacity=contract.Capacity(offer.max_concurrent),
                cold=offer.cold,
                facts=offer.facts,
                resumable=offer.resumable,
            ),
            labels=offer.labels,
            weight=offer.weight,
            type=self.context.wtype,
            public_key=self.membership.public_text if self.membership is not None else "",
        )
