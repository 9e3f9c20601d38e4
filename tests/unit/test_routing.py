"""One request's way through the router, with a real registry and balancer and scripted racks.

What is tried again and what is not, where, how often and until when; and that whatever happens, the
lease is given back and somebody learns of the outcome. In virtual time, so that nothing takes any.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from tests.fakes.aio import run
from tests.fakes.no_loads import NoLoads
from wrk_base import contract, errors
from wrk_base.contract import ModelFacts
from wrk_base.rpc import wire
from wrk_base.rpc.call import OpenCall, Parts, Reply
from wrk_orchestrator import affinity
from wrk_orchestrator.admission import Admission, Limits
from wrk_orchestrator.load_balancer import Lease, LoadBalancer
from wrk_orchestrator.model_names import ModelNames
from wrk_orchestrator.question import Question
from wrk_orchestrator.records import WorkerRecord
from wrk_orchestrator.routing import Router
from wrk_orchestrator.service_registry import ServiceRegistry
from wrk_orchestrator.telling import simulated

PAYLOAD = b"\x00 any bytes \xff"
FAR = 1000.0  # seconds; virtual

Script = Callable[[], Awaitable[Reply]]


def answer(text: str = "fine") -> Script:
    async def say() -> Reply:
        head = wire.pack_head({"success": True, "of": "the rack"})
        return Reply(head, wire.MSGPACK, wire.pack_body(text))

    return say


def failing(error: errors.WrkError) -> Script:
    async def fail() -> Reply:
        raise error

    return fail


def after(seconds: float, then: Script) -> Script:
    async def later() -> Reply:
        await asyncio.sleep(seconds)
        return await then()

    return later


def lost() -> errors.Unavailable:
    return errors.Unavailable("lost it")


def not_started() -> errors.Unavailable:
    return errors.Unavailable("it drains", not_started=True)


class ScriptedPeer:
    """A link to a rack that does what it was told, and remembers what it was sent."""

    def __init__(self) -> None:
        self.ready = True
        self.script: Script = answer()
        self.calls: list[dict[str, Any]] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, call: OpenCall, deadline: float, parts: Parts) -> None:
        method, flags, head, content_type, payload = parts
        self.calls.append(
            {
                "method": method,
                "flags": flags,
                "payload": payload,
                "head": wire.unpack_head(head),
                "content_type": content_type,
                "deadline": deadline,
            }
        )
        self.tasks[id(call)] = asyncio.create_task(self._run(call))

    async def _run(self, call: OpenCall) -> None:
        try:
            reply = await self.script()
        except errors.WrkError as error:
            call.failed(error)
        else:
            call.answered(reply.head, reply.content_type, reply.payload)

    def give_up(self, call: OpenCall) -> None:
        self.tasks[id(call)].cancel()


class Listener:
    """An asker that only notes that it was answered."""

    reads_heads = True

    def __init__(self) -> None:
        self.answered = asyncio.Event()

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.answered.set()

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None: ...

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    def fail(self, error: BaseException) -> None:
        raise error


class Mesh:
    """A router, and racks by name. `tell` gives the racks their scripts, all of them by default."""

    def __init__(
        self, racks: int = 3, capacity: int = 4, strategy: str = "round-robin", **settings: Any
    ) -> None:
        self.registry = ServiceRegistry(lease_s=30.0)
        self.balancer = LoadBalancer(self.registry, strategy, Random(1))
        self.peers: dict[str, ScriptedPeer] = {}
        self.outcomes: list[tuple[str, errors.WrkError | None]] = []
        self.elapsed: list[float] = []
        for number in range(1, racks + 1):
            self.join(f"r{number}", capacity)
        queue = Limits(settings.pop("queue_limit", 0), 100, settings.pop("queue_timeout", 2.0))
        self.admission: Admission[Lease] = Admission(queue, self.balancer, NoLoads())
        terms = {"max_retries": 3, "enable_failover": True, "budget_share": 0.2, "budget_floor": 3.0}
        terms["stream_idle"] = 60.0
        self.router = Router(self.balancer, self, self.admission, **{**terms, **settings})  # type: ignore[arg-type]

    def join(self, name: str, capacity: int, *models: str, **facts: ModelFacts) -> None:
        """A rack that serves m1 unless said otherwise; `facts` are by model."""
        record = WorkerRecord(
            worker_id=name,
            address=f"tcp://{name}:1",
            models=models or ("m1",),
            max_concurrent=capacity,
            facts=facts,
        )
        self.balancer.apply(self.registry.register(record, 0.0))
        self.balancer.set_limit(name, capacity)
        self.peers[name] = ScriptedPeer()

    def tell(self, script: Script, *names: str) -> None:
        for name in names or tuple(self.peers):
            self.peers[name].script = script

    def question(
        self, seconds: float = FAR, model: str = "m1", terms: dict[str, Any] | None = None, **options: Any
    ) -> Question:
        """`terms` are fields of the `Question`."""
        head = {"modelId": model, "options": options}
        deadline = asyncio.get_running_loop().time() + seconds
        packed = wire.pack_head(head)
        read = contract.read_head(packed)
        return Question(read, packed, wire.OCTETS, PAYLOAD, deadline, **(terms or {}))

    async def ask(self, seconds: float = FAR, **how: Any) -> Reply:
        return await self.router.route(self.question(seconds, **how))

    async def answered(self, **how: Any) -> tuple[str, str | None]:
        """Who answers, and the model that the answer names if it names one."""
        head = wire.unpack_head((await self.ask(**how)).head)
        return head["workerId"], head.get("modelId")

    async def refused(self, kind: type[errors.WrkError], **options: Any) -> errors.WrkError:
        with pytest.raises(kind) as caught:
            await self.ask(**options)
        return caught.value

    def counts(self) -> tuple[int, ...]:
        """Routed, failed, and sent again after a failure."""
        return tuple(self.router.counters[name] for name in ("routed", "failed", "retried"))

    @property
    def asked(self) -> list[str]:
        """The racks that were called, each as often as it was."""
        return [name for name, peer in self.peers.items() for _ in peer.calls]

    def figures(self, name: str) -> tuple[int, int]:
        """Successes and failures, as the statistics have them."""
        stats = self.balancer.stats(0.0, 0)[name]
        return int(stats["successCount"] or 0), int(stats["failureCount"] or 0)

    # what the router sees of the fleet

    def peer(self, worker_id: str) -> Any:
        return self.peers.get(worker_id)

    def note_cold(self, worker_id: str, model_id: str) -> None:
        self.balancer.apply(self.registry.cool(worker_id, model_id))

    def note_outcome(self, worker_id: str, error: errors.WrkError | None, elapsed: float) -> None:
        self.outcomes.append((worker_id, error))
        self.elapsed.append(elapsed)


def story(tell: Callable[[Mesh], Awaitable[None]], **mesh: Any) -> None:
    """Run a test's body with a mesh of its own; whatever it did, no lease is left at the end."""

    async def told() -> None:
        made = Mesh(**mesh)
        await tell(made)
        assert made.balancer.leases == 0
        assert all(made.balancer.load(name) == 0 for name in made.peers)

    run(told(), "virtual", within=1e6)


@asynccontextmanager
async def asking(mesh: Mesh, **options: Any) -> AsyncIterator[asyncio.Task[Reply]]:
    """A request that is under way; it is cancelled at the end unless it has ended by then."""
    task = asyncio.create_task(mesh.ask(**options))
    await asyncio.sleep(0.001)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


# --- an answer


def test_answer_says_who_gave_it_when_and_at_which_attempt() -> None:
    async def told(mesh: Mesh) -> None:
        reply = await mesh.ask()
        head = wire.unpack_head(reply.head)
        assert head.keys() == {"success", "workerId", "routedAt", "attempts"}
        assert (head["success"], head["attempts"]) == (True, 1)
        assert head["workerId"] in mesh.peers
        assert mesh.counts() == (1, 0, 0)

    story(told)


def test_a_session_stays_with_one_rack_where_that_is_asked_for() -> None:
    async def told(mesh: Mesh) -> None:
        for session in range(10):
            before = list(mesh.asked)
            for _ in range(3):
                await mesh.ask(sessionId=f"s{session}")
            assert max(mesh.asked.count(name) - before.count(name) for name in mesh.peers) == 3
        assert set(mesh.asked) == set(mesh.peers)

    story(told, strategy="consistent-hash")


def test_a_prompt_is_hashed_once_however_often_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []
    monkeypatch.setattr(affinity, "_beginnings", lambda prompt: hashed.append(prompt) or [(256, 1)])

    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(not_started()))
        await mesh.refused(errors.Unavailable, terms={"prompt": b"once upon a time"})
        assert sorted(mesh.asked) == ["r1", "r2", "r3"]
        assert hashed == [b"once upon a time"]

    story(told, strategy="prefix-aware")


def test_head_and_payload_reach_the_rack_as_they_came() -> None:
    async def told(mesh: Mesh) -> None:
        options = {"task": "raw", "an unknown key": [1, 2]}
        reply = await mesh.ask(7.0, **options)
        (call,) = (call for peer in mesh.peers.values() for call in peer.calls)
        assert call["method"] == "runInference"
        assert call["payload"] is PAYLOAD
        assert call["content_type"] == wire.OCTETS
        assert call["head"] == {"modelId": "m1", "options": options}
        assert call["deadline"] == 7.0
        assert wire.unpack_body(reply.payload, reply.content_type) == "fine"

    story(told)


def test_success_is_counted_and_told() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(0.5, answer()))
        await mesh.ask()
        ((worker, error),) = mesh.outcomes
        assert error is None
        assert mesh.elapsed == [0.5]
        assert mesh.figures(worker) == (1, 0)

    story(told)


def test_load_is_there_while_the_rack_works_and_gone_when_it_has_answered() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(1.0, answer()))
        async with asking(mesh) as task:
            assert mesh.balancer.load("r1") == 1
            await task
            assert mesh.balancer.load("r1") == 0

    story(told, racks=1)


# --- what is sent again, and what is not

AGAIN = {
    "lost on the way": lost,
    "refused by a worker that drains": not_started,
    "refused by a full worker": lambda: errors.CapacityExceeded(not_started=True),
    "a model that went": lambda: errors.ModelNotAvailable(not_started=True),
    "a worker without the method": lambda: errors.MethodNotFound(not_started=True),
}
NOT_AGAIN = {
    "the handler failed": lambda: errors.Internal("it failed"),
    "the handler did not like it": lambda: errors.BadRequest("bad input"),
    "the handler was full": lambda: errors.CapacityExceeded("out of memory"),
    "the handler does not allow it": lambda: errors.PermissionDenied("no"),
    "the handler was cancelled": errors.Cancelled,
    "the deadline passed": errors.DeadlineExceeded,
    "the deadline passed before it ran": lambda: errors.DeadlineExceeded(not_started=True),
    "it cannot be sent to anybody": lambda: errors.BadRequest("too long", not_started=True),
}


@pytest.mark.parametrize("case", AGAIN)
def test_another_worker_is_asked_when(case: str) -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(AGAIN[case]()), "r1")
        reply = await mesh.ask()
        while "r1" not in mesh.asked:  # whose turn it is, is not for us to say
            reply = await mesh.ask()
        head = wire.unpack_head(reply.head)
        assert (head["workerId"], head["attempts"]) == ("r2", 2)
        assert mesh.figures("r1") == (0, 1)
        assert mesh.router.counters["retried"] == 1

    story(told, racks=2)


@pytest.mark.parametrize("case", NOT_AGAIN)
def test_it_is_the_answer_when(case: str) -> None:
    async def told(mesh: Mesh) -> None:
        raised = NOT_AGAIN[case]()
        mesh.tell(failing(raised))
        error = await mesh.refused(type(raised))
        assert error is raised
        assert len(mesh.asked) == 1
        assert error.data["attempts"] == 1
        assert error.data["workers"] == mesh.asked
        assert mesh.counts() == (0, 1, 0)

    story(told)


def test_every_failure_is_counted_and_told_to_who_watches_health() -> None:
    async def told(mesh: Mesh) -> None:
        error = lost()
        mesh.tell(after(0.25, failing(error)))
        await mesh.refused(errors.Unavailable)
        assert sorted(name for name, _ in mesh.outcomes) == ["r1", "r2", "r3"]
        assert {told for _, told in mesh.outcomes} == {error}
        assert mesh.elapsed == [0.25] * 3
        assert [mesh.figures(name) for name in mesh.peers] == [(0, 1)] * 3

    story(told)


def test_facts_of_the_error_stay_in_it() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(errors.BadRequest("bad", data={"field": "prompt"})))
        error = await mesh.refused(errors.BadRequest)
        assert error.data == {"field": "prompt", "attempts": 1, "workers": mesh.asked}

    story(told)


def test_worker_whose_link_is_down_is_passed_over_without_a_call() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.peers["r1"].ready = False
        del mesh.peers["r2"]
        for _ in range(3):
            reply = await mesh.ask()
            head = wire.unpack_head(reply.head)
            assert head["workerId"] == "r3"
        assert mesh.asked == ["r3"] * 3
        told = {name: error for name, error in mesh.outcomes if error is not None}
        assert told.keys() == {"r1", "r2"}
        assert all(error.not_started and name in error.message for name, error in told.items())

    story(told)


def test_request_that_must_not_be_repeated_is_not_sent_again_once_it_may_have_started() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(lost()))
        error = await mesh.refused(errors.Unavailable, repeatable=False)
        assert len(mesh.asked) == 1
        assert not error.not_started

    story(told)


def test_request_that_must_not_be_repeated_goes_elsewhere_while_it_has_not_started() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(not_started()))
        mesh.tell(answer(), "r3")
        reply = await mesh.ask(repeatable=False)
        head = wire.unpack_head(reply.head)
        assert head["workerId"] == "r3"

    story(told)


# --- how often, and where


def test_no_worker_is_asked_twice() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(not_started()))
        error = await mesh.refused(errors.Unavailable)
        assert mesh.asked == ["r1", "r2", "r3"]
        assert sorted(error.data["workers"]) == mesh.asked

    story(told, max_retries=10)


def test_last_error_is_told_when_nobody_is_left() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(errors.Unavailable("the power failed")))
        error = await mesh.refused(errors.Unavailable)
        assert error.message == "the power failed"
        assert error.data["attempts"] == 3
        assert "every worker that could answer was tried" in error.data["left"]
        assert mesh.counts() == (0, 1, 3)

    story(told, max_retries=10)


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_further_workers_are_as_many_as_max_retries(max_retries: int) -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(lost()))
        error = await mesh.refused(errors.Unavailable)
        assert len(mesh.asked) == 1 + max_retries
        assert error.data["attempts"] == 1 + max_retries
        assert mesh.router.counters["retried"] == max_retries

    story(told, racks=6, max_retries=max_retries)


def test_without_failover_every_failure_is_shown() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(not_started()))
        await mesh.refused(errors.Unavailable)
        assert len(mesh.asked) == 1

    story(told, max_retries=3, enable_failover=False)


def test_failure_that_never_started_hides_none_that_may_have() -> None:
    """Who reads `not_started` may send even what must not run twice."""

    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(not_started()))
        mesh.tell(failing(lost()), "r1")
        for _ in range(3):
            error = await mesh.refused(errors.Unavailable)
            assert mesh.asked == ["r1", "r2", "r3"]
            assert not error.not_started
            for peer in mesh.peers.values():
                peer.calls.clear()

    story(told, max_retries=10)


def test_nothing_ever_started_is_still_said() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(not_started()))
        assert (await mesh.refused(errors.Unavailable)).not_started

    story(told)


# --- the retry budget


def test_an_outage_is_not_doubled_by_retries() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(lost()))
        for _ in range(100):
            await mesh.refused(errors.Unavailable)
        assert mesh.router.counters["retried"] == 20
        assert len(mesh.asked) == 120

    story(told, racks=6, budget_share=0.2, budget_floor=0.0)


def test_quiet_model_may_retry_at_all_and_budgets_recover() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(lost()))
        for _ in range(2):
            for _ in range(20):
                await mesh.refused(errors.Unavailable)
            await asyncio.sleep(10)
        assert mesh.router.counters["retried"] == 2 * 10

    story(told, racks=6, budget_share=0.0, budget_floor=1.0)


def test_one_model_cannot_use_up_the_budget_of_another() -> None:
    async def told(mesh: Mesh) -> None:
        record = WorkerRecord(worker_id="other", address="tcp://other:1", models=("m2",), max_concurrent=1)
        mesh.balancer.apply(mesh.registry.register(record, 0.0))
        mesh.tell(failing(lost()))
        for _ in range(20):
            await mesh.refused(errors.Unavailable)
        spent = mesh.router.counters["retried"]
        assert mesh.router.book("m2").budget.spend(0.0)
        assert not mesh.router.book("m1").budget.spend(0.0)
        assert spent == 10

    story(told, budget_share=0.0, budget_floor=1.0)


def test_callers_who_make_up_models_reset_nobodys_budget() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(failing(lost()))
        for _ in range(20):
            await mesh.refused(errors.Unavailable)
        for number in range(3000):
            head = contract.InferenceHead(f"made up {number}")
            with pytest.raises(errors.NoWorkersAvailable):
                await mesh.router.route(Question(head, None, wire.MSGPACK, b"", FAR))
        await mesh.refused(errors.Unavailable)
        assert mesh.router.counters["retried"] == 10

    story(told, budget_share=0.0, budget_floor=1.0)


# --- refusals before anybody was asked


def test_refusals_name_what_exists_and_ask_nobody() -> None:
    async def told(mesh: Mesh) -> None:
        with pytest.raises(errors.NoWorkersAvailable, match="m1") as unknown:
            await mesh.router.route(Question(contract.InferenceHead("m9"), None, wire.MSGPACK, b"", FAR))
        assert unknown.value.data["models"] == ["m1"]
        assert unknown.value.not_started, "another orchestrator may be asked whatever the request is"
        await mesh.refused(errors.NoWorkersMatch, requirements={"capabilities": ["gpu"]})
        for name in mesh.peers:
            mesh.balancer.set_limit(name, 0)
        await mesh.refused(errors.NoWorkersAvailable)
        assert mesh.asked == []
        assert mesh.counts() == (0, 3, 0)

    story(told)


def test_full_mesh_refuses_at_once_and_says_when_to_come_again() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(5.0, answer()))
        async with asking(mesh):
            error = await mesh.refused(errors.CapacityExceeded)
            assert error.retry_after_ms is not None
            assert asyncio.get_running_loop().time() < 1.0

    story(told, racks=1, capacity=1)


# --- waiting for a slot


def test_waiting_request_gets_the_slot_of_the_one_that_ends() -> None:
    async def told(mesh: Mesh) -> None:
        loop = asyncio.get_running_loop()
        mesh.tell(after(1.0, answer()))
        async with asking(mesh) as first, asking(mesh) as second:
            await first
            await second
            assert loop.time() == pytest.approx(2.0, abs=0.01)

    story(told, racks=1, capacity=1, queue_limit=1, queue_timeout=60.0)


@pytest.mark.parametrize("end", ["failure", "cancellation"])
def test_slot_comes_free_however_its_request_ends(end: str) -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(1.0, failing(errors.Internal("it failed"))))
        async with asking(mesh) as first, asking(mesh) as second:
            mesh.tell(answer())
            if end == "cancellation":
                first.cancel()
            await asyncio.wait((first,))
            await second
            assert asyncio.get_running_loop().time() < 2.0

    story(told, racks=1, capacity=1, queue_limit=1, queue_timeout=60.0)


def test_route_knows_how_long_it_waited() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(1.0, answer()))
        async with asking(mesh) as first:
            asker = Listener()
            route = mesh.router.start(mesh.question(), asker)
            await first
            assert route.waited == pytest.approx(1.0, abs=0.01)
            await asker.answered.wait()
        asker.answered.clear()
        assert mesh.router.start(mesh.question(), asker).waited == 0.0
        await asker.answered.wait()

    story(told, racks=1, capacity=1, queue_limit=1, queue_timeout=60.0)


def test_caller_with_many_requests_does_not_delay_the_first_of_another() -> None:
    async def told(mesh: Mesh) -> None:
        loop = asyncio.get_running_loop()
        mesh.tell(after(1.0, answer()))
        script = [asyncio.create_task(mesh.ask(terms={"caller": "script"})) for _ in range(20)]
        await asyncio.sleep(0.5)
        await mesh.ask(terms={"caller": "person"})
        assert loop.time() == pytest.approx(3.0)
        assert sum(task.done() for task in script) == 2
        await asyncio.gather(*script)

    story(told, racks=1, capacity=1, queue_limit=100, queue_timeout=60.0)


def test_who_waited_too_long_is_told_when_to_come_again_and_nothing_was_started() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(5.0, answer()))
        async with asking(mesh):
            late = await mesh.refused(errors.QueueTimeout)
            assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.01)
            assert late.not_started
            assert late.retry_after_ms is not None
            assert len(mesh.asked) == 1

    story(told, racks=1, capacity=1, queue_limit=5)


def test_caller_that_leaves_the_queue_is_out_of_it_at_once() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(5.0, answer()))
        async with asking(mesh):
            async with asking(mesh):
                assert mesh.admission.waiting == 1
            assert mesh.admission.waiting == 0
            assert mesh.balancer.leases == 1

    story(told, racks=1, capacity=1, queue_limit=5)


def test_request_that_failed_waits_for_another_worker_that_is_full() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(1.0, answer()))
        async with asking(mesh) as busy:
            (full,) = mesh.asked
            (free,) = mesh.peers.keys() - {full}
            mesh.tell(failing(lost()), free)
            reply = await mesh.ask()
            head = wire.unpack_head(reply.head)
            assert (head["workerId"], head["attempts"]) == (full, 2)
            assert busy.done()

    story(told, racks=2, capacity=1, queue_limit=5, queue_timeout=60.0)


# --- deadlines and callers that leave


def test_deadline_that_passed_is_not_tried_again() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(2.0, failing(errors.DeadlineExceeded("no answer in time"))))
        await mesh.refused(errors.DeadlineExceeded)
        assert len(mesh.asked) == 1
        ((_, error),) = mesh.outcomes
        assert isinstance(error, errors.DeadlineExceeded)

    story(told)


def test_failure_after_the_deadline_is_not_sent_again() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(2.0, failing(lost())))
        await mesh.refused(errors.Unavailable, seconds=1.0)
        assert len(mesh.asked) == 1

    story(told)


def test_caller_that_leaves_is_no_outcome_and_leaves_no_load() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.tell(after(60.0, answer()))
        async with asking(mesh) as task:
            await asyncio.sleep(10.0)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
            assert mesh.balancer.load("r1") == 0
            assert mesh.outcomes == []
            assert mesh.figures("r1") == (0, 0)

    story(told, racks=1)


def test_caller_that_leaves_at_its_deadline_has_seen_the_worker_miss_it() -> None:
    """Its own clock, or the server that runs this request, ends it a moment before the link's table does."""

    async def told(mesh: Mesh) -> None:
        mesh.tell(after(60.0, answer()))
        async with asking(mesh, seconds=10.0) as task:
            await asyncio.sleep(9.998)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
        ((worker, error),) = mesh.outcomes
        assert worker == "r1"
        assert isinstance(error, errors.DeadlineExceeded)
        assert mesh.figures("r1") == (0, 1)

    story(told, racks=1)


# --- other names, other models

NAMES = ModelNames({"gpt": "m1"}, {"m1": ["m2", "m3"], "only": ["m2"]})


def test_an_alias_reaches_its_model_and_the_rack_is_told_the_model() -> None:
    async def told(mesh: Mesh) -> None:
        assert await mesh.answered(model="gpt", task="chat") == ("r1", "m1")
        (call,) = mesh.peers["r1"].calls
        assert call["head"] == {"modelId": "m1", "options": {"task": "chat"}}
        assert call["payload"] is PAYLOAD
        assert await mesh.answered(model="m1") == ("r1", None)

    story(told, racks=1, names=NAMES)


def test_an_alias_holds_although_a_rack_calls_its_model_so() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("pretender", 4, "gpt")
        assert {await mesh.answered(model="gpt") for _ in range(4)} == {("r1", "m1")}

    story(told, racks=1, names=NAMES)


async def out_of_service(mesh: Mesh) -> None:
    mesh.balancer.set_limit("r1", 0)


async def gone(mesh: Mesh) -> None:
    mesh.balancer.apply(mesh.registry.remove("r1"))


async def full(mesh: Mesh) -> None:
    mesh.balancer.report_load("r1", 0, 0, 0.0)  # it says that it takes none at the moment


async def not_starting(mesh: Mesh) -> None:
    mesh.tell(failing(not_started()), "r1")


async def losing(mesh: Mesh) -> None:
    mesh.tell(failing(lost()), "r1")


@pytest.mark.parametrize("trouble", [out_of_service, gone, full, not_starting, losing])
def test_a_fallback_answers_when_the_model_cannot(trouble: Callable[[Mesh], Awaitable[None]]) -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2")
        mesh.join("r3", 4, "m3")
        assert await mesh.answered() == ("r1", None)
        await trouble(mesh)
        assert await mesh.answered() == ("r2", "m2")
        (call,) = mesh.peers["r2"].calls
        assert call["head"]["modelId"] == "m2"
        mesh.balancer.set_limit("r2", 0)
        assert await mesh.answered(model="gpt") == ("r3", "m3")
        mesh.balancer.set_limit("r2", 4)

    story(told, racks=1, names=NAMES)


def test_a_fallback_answers_when_nobody_meets_the_requirements() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2", m2=ModelFacts(["vision"]))
        needs = {"capabilities": ["vision"]}
        assert await mesh.answered(requirements=needs) == ("r2", "m2")

    story(told, racks=1, names=NAMES)


def test_a_model_of_which_only_the_fallback_is_known_is_served_and_is_not_unknown() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 1, "m2")
        assert await mesh.answered(model="only") == ("r2", "m2")
        mesh.balancer.set_limit("r2", 0)
        error = await mesh.refused(errors.NoWorkersAvailable, model="only")
        assert error.data["modelSeen"] is True
        assert error.data["tried"].keys() == {"only", "m2"}
        assert error.not_started
        mesh.balancer.apply(mesh.registry.remove("r2"))

    story(told, racks=0, names=NAMES)


def test_of_several_refusals_the_one_for_the_model_that_was_named_is_told() -> None:
    async def told(mesh: Mesh) -> None:
        await full(mesh)
        error = await mesh.refused(errors.CapacityExceeded)
        assert error.data["model"] == "m1"
        assert [reason.partition(":")[0] for reason in error.data["tried"].values()] == [
            "model m1",
            "model m2",
            "model m3",
        ]
        assert mesh.counts() == (0, 1, 0)
        await gone(mesh)
        error = await mesh.refused(errors.NoWorkersAvailable, model="never")
        assert (error.data["modelSeen"], "tried" in error.data) == (False, False)

    story(told, racks=1, names=NAMES)


def test_a_request_that_waited_in_vain_goes_to_the_fallback_and_waits_there_if_it_must() -> None:
    async def told(mesh: Mesh) -> None:
        loop = asyncio.get_running_loop()
        mesh.join("r2", 1, "m2")
        mesh.tell(after(3.0, answer()), "r2")
        await full(mesh)
        async with asking(mesh, model="m2"):
            assert await mesh.answered() == ("r2", "m2")
            assert loop.time() == pytest.approx(6.0, abs=0.01)  # two in vain, one for the slot, three for m2

    story(told, racks=1, names=NAMES, queue_limit=5, queue_timeout=2.0)


def test_a_caller_that_leaves_while_it_waits_for_a_fallback_leaves_nothing() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 1, "m2")
        mesh.tell(after(60.0, answer()), "r2")
        await full(mesh)
        async with asking(mesh, model="m2"), asking(mesh) as task:
            await asyncio.sleep(3.0)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
            assert mesh.admission.waiting == 0

    story(told, racks=1, names=NAMES, queue_limit=5, queue_timeout=2.0)


def test_no_fallback_is_tried_past_the_deadline() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2")
        await full(mesh)
        await mesh.refused(errors.QueueTimeout, seconds=1.0)
        assert mesh.asked == []

    story(told, racks=1, names=NAMES, queue_limit=5, queue_timeout=2.0)


def test_attempts_for_a_fallback_count_and_a_rack_that_serves_both_is_asked_for_both() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r1", 4, "m1", "m2")
        mesh.tell(failing(errors.CapacityExceeded("no memory for it", not_started=True)), "r1")
        error = await mesh.refused(errors.CapacityExceeded)
        assert [call["head"]["modelId"] for call in mesh.peers["r1"].calls] == ["m1", "m2"]
        assert (error.data["attempts"], error.data["workers"]) == (2, ["r1", "r1"])
        assert mesh.router.counters["retried"] == 2
        mesh.tell(answer())
        assert await mesh.answered() == ("r1", None)

    story(told, racks=1, names=NAMES)


@pytest.mark.parametrize(
    ("trouble", "settings"), [(not_starting, {"max_retries": 0}), (losing, {"enable_failover": False})]
)
def test_where_nothing_is_tried_again_no_fallback_is_tried_after_a_failure(
    trouble: Callable[[Mesh], Awaitable[None]], settings: dict[str, Any]
) -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2")
        await trouble(mesh)
        await mesh.refused(errors.Unavailable)
        assert mesh.asked == ["r1"]
        mesh.balancer.set_limit("r1", 0)  # where nobody was asked, nothing is tried again
        assert await mesh.answered() == ("r2", "m2")

    story(told, racks=1, names=NAMES, **settings)


@pytest.mark.parametrize("raised", [errors.Internal("it failed"), errors.BadRequest("bad input")])
def test_what_a_handler_raised_is_the_answer_and_no_reason_for_a_fallback(raised: errors.WrkError) -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2")
        mesh.tell(failing(raised), "r1")
        assert await mesh.refused(type(raised)) is raised
        assert mesh.asked == ["r1"]

    story(told, racks=1, names=NAMES)


def test_a_request_that_may_not_be_repeated_goes_to_no_fallback_once_it_may_have_started() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2")
        await losing(mesh)
        await mesh.refused(errors.Unavailable, repeatable=False)
        assert mesh.asked == ["r1"]
        await not_starting(mesh)
        assert await mesh.answered(repeatable=False) == ("r2", "m2")

    story(told, racks=1, names=NAMES)


def test_the_models_that_a_question_names_are_all_that_answer_it() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2")
        mesh.join("r3", 4, "m3")
        await gone(mesh)
        assert await mesh.answered(terms={"models": ("m1", "m3")}) == ("r3", "m3")
        await mesh.refused(errors.NoWorkersAvailable, terms={"models": ("m1",)})
        assert mesh.asked == ["r3"]
        del mesh.peers["r1"]

    story(told, racks=1, names=NAMES)


def test_find_looks_for_the_same_models_and_says_which() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("r2", 4, "m2")
        assert mesh.router.find(contract.FindWorker("gpt")) == ("r1", "m1")
        await out_of_service(mesh)
        assert mesh.router.find(contract.FindWorker("gpt")) == ("r2", "m2")
        with pytest.raises(errors.NoWorkersAvailable):
            mesh.router.find(contract.FindWorker("gpt"), ("m1",))

    story(told, racks=1, names=NAMES)


# --- what a request seems to need


def test_a_hint_binds_where_a_worker_tells_and_nowhere_else() -> None:
    async def told(mesh: Mesh) -> None:
        hinted = {"terms": {"hints": ("vision", "tools")}}
        assert {(await mesh.answered(**hinted))[0] for _ in range(4)} == {"r1", "r2"}
        mesh.join("sees", 4, "m1", m1=ModelFacts(["vision"]))
        assert {(await mesh.answered(**hinted))[0] for _ in range(4)} == {"sees"}
        mesh.join("uses", 4, "m1", m1=ModelFacts(["tools"]))  # nobody does both: the first hint holds
        assert {(await mesh.answered(**hinted))[0] for _ in range(4)} == {"sees"}
        assert {(await mesh.answered())[0] for _ in range(8)} == {"r1", "r2", "sees", "uses"}

    story(told, racks=2)


def test_a_hint_that_no_worker_has_that_meets_the_requirements_is_dropped() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("long", 4, "m1", m1=ModelFacts(context_length=32_768))
        mesh.join("sees", 4, "m1", m1=ModelFacts(["vision"]))
        needs = {"minContext": 8192}
        assert await mesh.answered(terms={"hints": ("vision",)}, requirements=needs) == ("long", None)

    story(told, racks=1)


def test_a_hint_is_asked_anew_for_each_model() -> None:
    async def told(mesh: Mesh) -> None:
        mesh.join("sees", 4, "m1", m1=ModelFacts(["vision"]))
        mesh.join("r2", 4, "m2")
        mesh.balancer.set_limit("sees", 0)
        assert await mesh.answered(terms={"hints": ("vision",)}) == ("r2", "m2")

    story(told, racks=1, names=NAMES)


# --- without any rack


def test_find_names_a_worker_and_takes_no_load() -> None:
    async def told(mesh: Mesh) -> None:
        found = [mesh.router.find(contract.FindWorker("m1")) for _ in range(3)]
        assert sorted(found) == [("r1", "m1"), ("r2", "m1"), ("r3", "m1")]
        assert mesh.balancer.leases == 0
        with pytest.raises(errors.NoWorkersMatch):
            mesh.router.find(contract.FindWorker("m1", contract.Requirements(min_capacity=99)))

    story(told)


def test_simulated_answer_says_what_it_is() -> None:
    head = contract.InferenceHead("m9", contract.Options(task="chat"))
    reply = simulated(Question(head, None, wire.MSGPACK, b"12345", FAR), "orc-1")
    said = wire.unpack_head(reply.head)
    assert (said["simulated"], said["workerId"], said["attempts"]) == (True, "orc-1", 0)
    result = wire.unpack_body(reply.payload, reply.content_type)
    assert result["simulated"] is True
    assert (result["modelId"], result["task"], result["inputBytes"]) == ("m9", "chat", 5)
