"""Several orchestrators of one mesh: what one is told all of them know, whoever dies and whoever was away.

Real workers on a fake network and a virtual clock. Each orchestrator has a machine of its own (a state
directory) unless the story says otherwise, and nobody else's help.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.aio import eventually, run
from tests.fakes.context import FakeRack, Offer, Site
from wrk_base import errors
from wrk_base.rpc.peers import Peers
from wrk_base.worker import Worker
from wrk_orchestrator import replication
from wrk_orchestrator.health_table import Observation
from wrk_orchestrator.http import api_keys
from wrk_orchestrator.http.key_files import KeyFile
from wrk_orchestrator.orchestrator import OrchestratorWorker
from wrk_orchestrator.replication import Allowance, SentRow, SentStamp, stamp_of
from wrk_orchestrator.replicator import FORGET_S, MOST_OTHERS

DRAIN, QUARANTINE = Observation.OPERATOR_DRAIN, Observation.OPERATOR_QUARANTINE
RELEASE = Observation.OPERATOR_RELEASE
NOBODY = "tcp://127.0.0.1:9"
AGREED = 5.0  # seconds: what is promised
AT_ONCE = 0.5


class Several(Site):
    """Orchestrators `a` and `b`, on machines of their own, and somebody who asks."""

    a: OrchestratorWorker
    b: OrchestratorWorker
    asker: Peers

    async def __aenter__(self) -> Several:
        self.a, self.b = await self.start_orc("a"), await self.start_orc("b")
        await until(lambda: linked(self.a) == ["b"] and linked(self.b) == ["a"], AGREED)
        self.asker = self.caller()
        return self

    async def start_orc(self, name: str, machine: str = "", **more: Any) -> OrchestratorWorker:
        directory = self.directory / (machine or f"machine-{name}")
        directory.mkdir(exist_ok=True)
        return await self.orchestrator(name, directory=directory, **more)

    async def infer(self, of: OrchestratorWorker, model: str = "m1", **options: Any) -> Any:
        body = {"modelId": model, "inputData": "x", "options": options}
        return await self.asker.request(of.endpoint, "routeInferenceRequest", body, timeout=60.0)

    def cut_off(self, orchestrator: OrchestratorWorker) -> None:
        """Nobody reaches it, and it reaches nobody of the orchestrators."""
        for other in (self.a, self.b):
            self.network.refuse(other.endpoint)
            if linked(other) or other is orchestrator:
                self.network.cut(other.endpoint)

    def heal(self) -> None:
        for orchestrator in (self.a, self.b):
            self.network.allow(orchestrator.endpoint)

    def facts(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.log.events if name == event]


def linked(orchestrator: OrchestratorWorker) -> list[str]:
    return orchestrator.replicator.linked()


def states(orchestrator: OrchestratorWorker) -> dict[str, str]:
    return {worker["workerId"]: worker["state"] for worker in orchestrator.list_workers({})["workers"]}


def say(orchestrator: OrchestratorWorker, word: Observation, worker: str = "r1") -> Any:
    return orchestrator.hold({"workerId": worker}, word)


def registered(orchestrator: OrchestratorWorker, worker_id: str, address: str = NOBODY) -> None:
    body = {"workerId": worker_id, "address": address, "capabilities": {"models": ["m9"]}}
    orchestrator.register(body, source="http")


def alike(*orchestrators: OrchestratorWorker) -> bool:
    return len({orchestrator.records.book.digest() for orchestrator in orchestrators}) == 1


async def until(holds: Callable[[], object], within: float) -> None:
    await eventually(holds, within)


def story(tell: Callable[[Several], Awaitable[None]], directory: Path) -> None:
    async def told() -> None:
        async with Several(directory) as mesh:
            await tell(mesh)
        loop = asyncio.get_running_loop()
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert [timer for timer in timers if "timeout" not in repr(timer).lower()] == []

    run(told(), "virtual", within=1e6)


# --- holds


def test_a_drain_is_in_force_everywhere_at_once_and_so_is_its_end(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        await mesh.rack("r1")
        await until(lambda: states(mesh.a) == states(mesh.b) == {"r1": "healthy"}, AGREED)
        assert say(mesh.a, DRAIN) == {"success": True, "workerId": "r1", "state": "draining"}
        await until(lambda: states(mesh.b) == {"r1": "draining"}, AT_ONCE)
        assert mesh.b.list_workers({})["workers"][0]["hold"] == "drain"
        with pytest.raises(errors.NoWorkersAvailable):
            await mesh.infer(mesh.b)
        say(mesh.b, RELEASE)
        await until(lambda: states(mesh.a) == {"r1": "healthy"}, AT_ONCE)
        assert (await mesh.infer(mesh.a))["workerId"] == "r1"

    story(told, tmp_path)


def test_a_hold_outlives_the_rack_and_every_orchestrator_and_bites_before_the_first_request(
    tmp_path: Path,
) -> None:
    """Also where the rack is away when the orchestrator starts, and back as another process."""

    async def told(mesh: Several) -> None:
        rack = await mesh.rack("r1")
        await until(lambda: states(mesh.a) == states(mesh.b) == {"r1": "healthy"}, AGREED)
        say(mesh.a, QUARANTINE)
        await mesh.crash(rack)
        await mesh.crash(mesh.a)
        await mesh.crash(mesh.b)
        mesh.a = await mesh.start_orc("a", epoch=2)
        assert mesh.a.service_status()["records"]["holds"] == {"r1": "quarantine"}
        await mesh.rack("r1", epoch=2)
        await until(lambda: "r1" in states(mesh.a), AGREED)
        seen = []
        for _ in range(100):
            seen.append(states(mesh.a)["r1"])
            await asyncio.sleep(0.01)
        assert set(seen) <= {"joining", "quarantined"}
        assert seen[-1] == "quarantined"
        say(mesh.a, RELEASE)
        await until(lambda: states(mesh.a)["r1"] == "probation", AT_ONCE)

    story(told, tmp_path)


def test_a_word_survives_the_death_of_the_one_that_was_told(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        await mesh.rack("r1")
        await until(lambda: states(mesh.a) == states(mesh.b) == {"r1": "healthy"}, AGREED)
        say(mesh.a, DRAIN)
        await until(lambda: alike(mesh.a, mesh.b), AT_ONCE)
        await mesh.crash(mesh.a)
        third = await mesh.start_orc("c")
        await until(lambda: states(third) == {"r1": "draining"}, AGREED)

    story(told, tmp_path)


def test_a_worker_that_is_away_is_released_and_one_that_nobody_knows_is_not_held(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        rack = await mesh.rack("r1")
        await until(lambda: states(mesh.a) == {"r1": "healthy"}, AGREED)
        say(mesh.a, DRAIN)
        await rack.stop()
        await until(lambda: states(mesh.a) == {}, AGREED)
        assert say(mesh.a, RELEASE)["state"] == "gone"
        for word in (RELEASE, DRAIN):
            with pytest.raises(errors.WorkerNotFound):
                say(mesh.a, word)
        await mesh.rack("r1", epoch=2)
        await until(lambda: states(mesh.a) == {"r1": "healthy"}, AGREED)

    story(told, tmp_path)


def test_a_hold_of_an_operators_entry_is_one_of_the_rack_behind_it(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        rack = await mesh.rack("r1")
        registered(mesh.a, "by-hand", rack.endpoint)
        await until(lambda: states(mesh.a) == states(mesh.b) == {"by-hand": "healthy"}, AGREED)
        say(mesh.a, DRAIN, "by-hand")
        await until(lambda: states(mesh.b) == {"by-hand": "draining"}, AT_ONCE)
        mesh.b.unregister("by-hand")
        await until(lambda: states(mesh.a) == states(mesh.b) == {"r1": "draining"}, 60.0)
        say(mesh.b, RELEASE, "r1")
        await until(lambda: states(mesh.a) == {"r1": "healthy"}, AT_ONCE)

    story(told, tmp_path)


# --- manual registrations


def test_what_an_operator_enters_and_takes_out_is_so_everywhere(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        registered(mesh.a, "far")
        await until(lambda: "far" in states(mesh.b), AT_ONCE)
        assert mesh.b.show(mesh.b.fleet.entry("far"))["manual"]
        mesh.b.unregister("far")
        await until(lambda: "far" not in states(mesh.a), AT_ONCE)
        await mesh.crash(mesh.a)
        mesh.a = await mesh.start_orc("a", epoch=2)
        await asyncio.sleep(AGREED)
        assert states(mesh.a) == states(mesh.b) == {}

    story(told, tmp_path)


def test_two_entries_for_one_rack_become_one_and_the_same_everywhere(tmp_path: Path) -> None:
    """The later word wins, in whatever order the others hear of the two."""

    async def told(mesh: Several) -> None:
        rack = await mesh.rack("r1")
        mesh.cut_off(mesh.b)
        registered(mesh.a, "zz-first", rack.endpoint)
        await asyncio.sleep(1.0)
        registered(mesh.a, "aa-second", rack.endpoint)
        await until(lambda: len(states(mesh.a)) == 1, AGREED)
        held = states(mesh.a)
        mesh.heal()
        await until(lambda: states(mesh.b) == held, 2 * AGREED)
        await asyncio.sleep(60.0)
        assert states(mesh.a) == states(mesh.b) == held
        assert alike(mesh.a, mesh.b)

    story(told, tmp_path)


def test_entries_that_nobody_reached_yet_become_the_same_one_everywhere_when_the_rack_comes(
    tmp_path: Path,
) -> None:
    """Also where another orchestrator has heard of both at once, in the order of their names."""

    async def told(mesh: Several) -> None:
        registered(mesh.a, "zz-first")
        await asyncio.sleep(1.0)
        registered(mesh.a, "aa-second")
        await mesh.crash(mesh.b)
        mesh.b = await mesh.start_orc("b", epoch=2)
        await until(lambda: len(states(mesh.a)) == len(states(mesh.b)) == 2, AGREED)
        said_at = [
            {w["workerId"]: w["registeredAt"] for w in orc.list_workers({})["workers"]}
            for orc in (mesh.a, mesh.b)
        ]
        assert said_at[0] == said_at[1]
        await mesh.rack("r1", flags={"rpc.port": NOBODY.rpartition(":")[2]})
        await until(lambda: states(mesh.a) == states(mesh.b) == {"aa-second": "healthy"}, AGREED)
        await asyncio.sleep(60.0)
        assert states(mesh.a) == states(mesh.b) == {"aa-second": "healthy"}

    story(told, tmp_path)


# --- API keys


def key(name: str, secret: str = "") -> api_keys.ApiKey:
    return api_keys.entry(api_keys.made_of((secret or name).encode().ljust(32, b".")), name, 5)


def file_of(orchestrator: OrchestratorWorker) -> KeyFile:
    return KeyFile(orchestrator.context.state_dir)


def names(orchestrator: OrchestratorWorker) -> list[str]:
    return [key.name for key in file_of(orchestrator).read()]


def test_a_key_that_is_made_or_removed_on_one_machine_is_so_on_all(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        file_of(mesh.a).add(key("alice"))
        await until(lambda: names(mesh.b) == ["alice"], AGREED)
        file_of(mesh.b).add(key("bob"))
        file_of(mesh.b).remove("alice")
        await until(lambda: names(mesh.a) == names(mesh.b) == ["bob"], AGREED)
        await asyncio.sleep(60.0)
        assert names(mesh.a) == names(mesh.b) == ["bob"]

    story(told, tmp_path)


def test_a_key_that_was_removed_does_not_come_back_with_an_old_file(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        file_of(mesh.a).add(key("alice"))
        await until(lambda: names(mesh.b) == ["alice"], AGREED)
        old = file_of(mesh.b).path.read_bytes()
        file_of(mesh.a).remove("alice")
        await until(lambda: names(mesh.b) == [], AGREED)
        file_of(mesh.b).path.write_bytes(old)
        await until(lambda: names(mesh.b) == [], AGREED)
        assert names(mesh.a) == []

    story(told, tmp_path)


def test_keys_change_also_while_no_orchestrator_runs_there(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        file_of(mesh.a).add(key("alice"))
        await until(lambda: names(mesh.b) == ["alice"], AGREED)
        await mesh.crash(mesh.a)
        file_of(mesh.a).add(key("carol"))
        file_of(mesh.a).remove("alice")
        file_of(mesh.b).add(key("bob"))
        await asyncio.sleep(AGREED)
        mesh.a = await mesh.start_orc("a", epoch=2)
        await until(lambda: sorted(names(mesh.a)) == sorted(names(mesh.b)) == ["bob", "carol"], AGREED)

    story(told, tmp_path)


def test_orchestrators_that_share_a_file_neither_fight_nor_take_each_others_word_back(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        third = await mesh.start_orc("c", machine="machine-a")
        for number in range(5):
            file_of(mesh.a).add(key(f"here-{number}"))
            file_of(mesh.b).add(key(f"there-{number}"))
        await until(lambda: len(names(mesh.a)) == len(names(mesh.b)) == 10, AGREED)
        await until(lambda: alike(mesh.a, mesh.b, third), AGREED)
        for number in range(5):
            file_of(mesh.a).remove(f"there-{number}")
            file_of(mesh.b).remove(f"here-{number}")
        await until(lambda: names(mesh.a) == names(mesh.b) == [], AGREED)
        settled = [(orc.records.book.digest(), file_of(orc).version()) for orc in (mesh.a, mesh.b, third)]
        await asyncio.sleep(60.0)
        now = [(orc.records.book.digest(), file_of(orc).version()) for orc in (mesh.a, mesh.b, third)]
        assert now == settled
        assert alike(mesh.a, mesh.b, third)

    story(told, tmp_path)


def test_one_name_given_on_two_machines_is_two_keys_that_go_together(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        mesh.cut_off(mesh.b)
        file_of(mesh.a).add(key("alice", "one"))
        file_of(mesh.b).add(key("alice", "two"))
        await asyncio.sleep(1.0)
        mesh.heal()
        await until(lambda: names(mesh.a) == names(mesh.b) == ["alice", "alice"], 2 * AGREED)
        file_of(mesh.a).remove("alice")
        await until(lambda: names(mesh.b) == [], AGREED)

    story(told, tmp_path)


def test_a_file_that_is_gone_or_damaged_removes_no_key(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        file_of(mesh.a).add(key("alice"))
        await until(lambda: names(mesh.b) == ["alice"], AGREED)
        file_of(mesh.a).path.write_text("{")
        await asyncio.sleep(AGREED)
        assert names(mesh.b) == ["alice"]
        assert len(mesh.facts("http.keys_not_shared")) == 1
        file_of(mesh.a).path.unlink()
        await until(lambda: names(mesh.a) == ["alice"], AGREED)

    story(told, tmp_path)


def test_no_key_travels_only_what_it_is_known_by(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        file_of(mesh.a).add(key("alice"))
        await until(lambda: names(mesh.b) == ["alice"], AGREED)
        (row,) = mesh.b.records.book.all()
        assert msgspec.json.decode(row.body) == msgspec.to_builtins(key("alice"))
        assert row.id == key("alice").sha256

    story(told, tmp_path)


# --- apart, and together again


def test_whatever_was_said_on_both_sides_of_a_split_is_settled_after_it(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        await mesh.rack("r1")
        await mesh.rack("r2")
        await until(lambda: len(states(mesh.a)) == len(states(mesh.b)) == 2, AGREED)
        mesh.cut_off(mesh.b)
        say(mesh.a, DRAIN, "r1")
        say(mesh.b, DRAIN, "r1")
        say(mesh.b, RELEASE, "r1")
        say(mesh.a, QUARANTINE, "r2")
        registered(mesh.b, "far")
        await asyncio.sleep(30.0)
        assert not alike(mesh.a, mesh.b)
        mesh.heal()
        await until(lambda: alike(mesh.a, mesh.b), AGREED)
        for orchestrator in (mesh.a, mesh.b):
            seen = states(orchestrator)
            assert (seen["r1"], seen["r2"]) == (
                "healthy",
                "quarantined",
            )  # two words against one; the only one
            assert "far" in seen

    story(told, tmp_path)


def test_one_that_can_only_be_dialled_and_one_that_can_only_dial_agree(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        await mesh.rack("r1")
        lonely = mesh.bus.join("nobody-at-all")
        third = await mesh.start_orc("c", heard=lonely, peers=(mesh.a.endpoint,))
        mesh.network.refuse(third.endpoint)
        await until(lambda: linked(third) == ["a"], 60.0)
        await until(lambda: states(mesh.a) == {"r1": "healthy"}, AGREED)
        registered(third, "far")
        await until(lambda: "far" in states(mesh.b), AGREED)
        say(mesh.b, DRAIN)
        await until(lambda: alike(mesh.a, mesh.b, third), AGREED)

    story(told, tmp_path)


def test_an_orchestrator_that_is_gone_for_good_is_forgotten_in_the_end(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        await mesh.crash(mesh.b)
        await asyncio.sleep(FORGET_S / 2)
        before = mesh.network.dials.count(mesh.b.endpoint)
        await asyncio.sleep(20.0)
        assert mesh.network.dials.count(mesh.b.endpoint) > before
        mesh.a.context.discovery._sources[0]._known.clear()  # type: ignore[attr-defined]
        await asyncio.sleep(FORGET_S)
        assert mesh.a.peers.stats()["held"] == 0

    story(told, tmp_path)


def test_it_does_not_link_to_itself_nor_twice_to_anybody(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        alias = "tcp://another-name:1"
        mesh.network.listeners[alias] = mesh.network.listeners[mesh.b.endpoint]
        third = await mesh.start_orc("c", peers=(mesh.b.endpoint, alias))
        await until(lambda: linked(third) == ["a", "b"], 60.0)
        await asyncio.sleep(60.0)
        before = third.replicator.counters["compared"]
        await asyncio.sleep(20.0)
        assert third.replicator.counters["compared"] - before <= 2 * 12
        del mesh.network.listeners[alias]

    story(told, tmp_path)


def test_there_is_a_bound_on_how_many_it_links_to(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        for number in range(MOST_OTHERS + 10):
            mesh.a.replicator.dial(f"tcp://127.0.0.1:{100 + number}")
        assert mesh.a.peers.stats()["held"] == MOST_OTHERS
        await until(lambda: linked(mesh.a) == ["b"], AGREED)

    story(told, tmp_path)


# --- what they send to the same racks


class SlowRack(FakeRack):
    """Takes `seconds` for each request, and remembers how many it ran at once."""

    seconds = 1.0
    most = 0
    answered = 0

    async def infer(self, model_id: str, input_data: Any, options: Any) -> Any:
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds * (0.5 + self.context.rng.random()))
        self.answered += 1
        return self.context.rack


async def slow_racks(mesh: Several, count: int, capacity: int, seconds: float = 1.0) -> list[SlowRack]:
    offer = Offer(capacity=capacity)
    racks = [SlowRack(mesh.context(f"r{n}", "rack"), offer) for n in range(count)]
    for rack in racks:
        rack.seconds = seconds
        await mesh.start(rack)
    await until(lambda: len(states(mesh.a)) == len(states(mesh.b)) == count, AGREED)
    return racks


def test_a_rack_that_is_full_of_anothers_requests_is_waited_for_and_costs_no_attempt(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        (rack,) = await slow_racks(mesh, 1, capacity=2)
        both = (mesh.a, mesh.b)
        answers = await asyncio.gather(*(mesh.infer(of) for _ in range(20) for of in both))
        assert {answer["attempts"] for answer in answers} == {1}
        assert (rack.answered, rack.most) == (40, 2)
        for orchestrator in both:
            assert orchestrator.router.counters["retried"] == 0
            assert orchestrator.load_balancing_stats()["workers"]["r0"]["failureCount"] == 0
            assert orchestrator.balancer.leases == 0

    story(told, tmp_path)


def test_who_was_turned_away_hears_of_the_free_slot_at_once_and_not_at_a_beat(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        rack = await mesh.rack("r1", Offer(capacity=1))
        await until(lambda: len(states(mesh.a)) == len(states(mesh.b)) == 1, AGREED)
        for _ in range(10):
            rack.hold()
            holding = asyncio.ensure_future(mesh.infer(mesh.a))
            await until(lambda: rack.running == 1, AT_ONCE)
            waiting = asyncio.ensure_future(mesh.infer(mesh.b))
            await asyncio.sleep(0.33)
            rack.let_go()
            await holding
            async with asyncio.timeout(0.02):
                assert (await waiting)["attempts"] == 1

    story(told, tmp_path)


def test_one_that_is_full_whenever_it_is_asked_ends_the_wait_at_the_deadline(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        (rack,) = await slow_racks(mesh, 1, capacity=1, seconds=600.0)
        held = asyncio.ensure_future(
            mesh.asker.request(
                mesh.a.endpoint,
                "routeInferenceRequest",
                {"modelId": "m1", "inputData": "x"},
                timeout=2000.0,
            )
        )
        await until(lambda: rack.running == 1, AT_ONCE)
        with pytest.raises(errors.QueueTimeout, match="no worker came free") as refused:
            await mesh.infer(mesh.b, timeoutMs=3000)
        assert refused.value.not_started
        assert (await held)["success"]

    story(told, tmp_path)


@pytest.mark.parametrize(
    "strategy", ["round-robin", "least-connections", "power-of-two", "peak-ewma", "prequal"]
)
def test_at_twice_the_capacity_two_orchestrators_do_not_herd(strategy: str, tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        for orchestrator in (mesh.a, mesh.b):
            await mesh.crash(orchestrator)
        flags = {"loadBalancingStrategy": strategy}
        mesh.a = await mesh.start_orc("a", epoch=2, flags=flags)
        mesh.b = await mesh.start_orc("b", epoch=2, flags=flags)
        racks = await slow_racks(mesh, 8, capacity=4, seconds=0.05)

        async def keep_asking(of: OrchestratorWorker) -> None:
            for _ in range(20):
                await mesh.infer(of)

        await asyncio.gather(*(keep_asking(of) for of in (mesh.a, mesh.b) for _ in range(32)))
        answered = [rack.answered for rack in racks]
        assert sum(answered) == 2 * 32 * 20
        assert max(answered) <= 1.3 * sum(answered) / len(answered), answered

    story(told, tmp_path)


# --- others that are not well


class Liar(Worker):
    """Says that it is an orchestrator, and answers whatever it is told to."""

    role = "orchestrator"

    def __init__(self, context: Any, stamps: Any, rows: Any) -> None:
        super().__init__(context)
        self.asked = 0
        self.respond("compareRecords", lambda _: {"buckets": list(range(64)), "stamps": stamps})
        self.respond("exchangeRecords", lambda _: self._give(rows))

    def _give(self, rows: Any) -> Any:
        self.asked += 1
        return {"rows": rows}


def sent_row(kind: str, id: str, body: str) -> SentRow:
    return SentRow(kind, id, 7, "liar", False, body, 0)


def stamp(row: SentRow) -> SentStamp:
    return SentStamp(row.kind, row.id, *stamp_of(row.arrived(0)))  # type: ignore[arg-type]


BAD = [
    sent_row("hold", "r1", '{"word": "explode"}'),
    sent_row("hold", "not an id", '{"word": "drain"}'),
    sent_row(
        "registration", "far", '{"offer": {"workerId": "other", "address": "tcp://h:1"}, "source": "x"}'
    ),
    sent_row("registration", "far", '{"offer": {"workerId": "far", "address": "nonsense"}, "source": "x"}'),
    sent_row("api-key", "0" * 64, '{"name": "a", "sha256": "' + "1" * 64 + '", "created": 1}'),
    sent_row("hold", "r2", "[" * 50_000),
    sent_row("hold", "r3", "no JSON"),
    sent_row("nonsense", "a", "{}"),
]


@pytest.mark.parametrize("row", BAD, ids=[f"{row.kind} {row.body[:20]}" for row in BAD])
def test_a_record_that_cannot_be_is_refused_counted_and_not_asked_for_again(
    row: SentRow, tmp_path: Path
) -> None:
    async def told(mesh: Several) -> None:
        await mesh.rack("r1")
        rows = [msgspec.to_builtins(row)]
        liar = await mesh.start(
            Liar(mesh.context("liar", "orchestrator"), [msgspec.to_builtins(stamp(row))], rows)
        )
        await until(lambda: mesh.a.records.counters["refused"], AGREED)
        asked = liar.asked
        await asyncio.sleep(60.0)
        assert liar.asked <= asked + 2  # b's own, and none since
        assert (mesh.a.records.counters["refused"], len(mesh.a.records.book)) == (1, 0)
        assert len(mesh.facts("records.refused")) == 2  # one each
        say(mesh.a, DRAIN)
        await until(lambda: states(mesh.b) == {"r1": "draining"}, AT_ONCE)

    story(told, tmp_path)


@pytest.mark.parametrize(
    ("stamps", "rows"),
    [
        ("nonsense", []),
        ([["hold", "a", 1, "liar", False, "AAAAAAAAAAA="]], "nonsense"),
        ([["hold", "a", 1, "liar", False, "AAAAAAAAAAA="]], [["hold"]]),
        ([["hold", "a", 1, "liar", False, "short"]], []),
        ([["hold", "a", 2**70, "liar", False, "AAAAAAAAAAA="]], []),
        ([["hold", "a", 1, "liar", False, "AAAAAAAAAAA="]], [["hold", "a", 1, "liar", False, "{}", 0]] * 300),
    ],
)
def test_one_that_answers_nonsense_costs_nobody_anything(stamps: Any, rows: Any, tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        await mesh.rack("r1")
        await mesh.start(Liar(mesh.context("liar", "orchestrator"), stamps, rows))
        await until(lambda: mesh.a.replicator.counters["failed"], AGREED)
        await asyncio.sleep(20.0)
        assert mesh.facts("worker.task_failed") == []
        say(mesh.a, DRAIN)
        await until(lambda: states(mesh.b) == {"r1": "draining"}, AT_ONCE)

    story(told, tmp_path)


def test_what_a_peer_asks_is_checked_and_asked_too_often_refused(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        asker = mesh.caller("other", "orchestrator")

        async def ask(method: str, body: Any) -> Any:
            return await asker.request(mesh.a.endpoint, method, body, timeout=5.0)

        for method, body in (
            ("compareRecords", {"digest": b"short"}),
            ("compareRecords", {}),
            ("exchangeRecords", {"rows": [["hold"]]}),
            ("exchangeRecords", {"wanted": [["a", "b"]] * 257}),
        ):
            with pytest.raises(errors.BadRequest):
                await ask(method, body)
        assert (await ask("exchangeRecords", {"wanted": [["hold", "nobody"]]}))["rows"] == []
        body = {"digest": mesh.a.records.book.digest()}
        asked = [ask("compareRecords", body) for _ in range(Allowance.BURST + 20)]
        said = await asyncio.gather(*asked, return_exceptions=True)
        refused = [error for error in said if isinstance(error, errors.CapacityExceeded)]
        assert 20 <= len(refused) <= 30
        assert mesh.a.replicator.counters["refused"] == len(refused)

    story(told, tmp_path)


def test_what_the_disk_does_not_take_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        await mesh.rack("r1")
        await until(lambda: states(mesh.a) == states(mesh.b) == {"r1": "healthy"}, AGREED)
        assert mesh.a._store is not None
        mesh.a._store.close()
        with pytest.raises(errors.Internal):
            say(mesh.a, DRAIN)
        assert states(mesh.a) == {"r1": "healthy"}
        say(mesh.b, DRAIN)
        await until(lambda: mesh.a.records.counters["refused"], AGREED)
        assert states(mesh.a) == {"r1": "healthy"}

    story(told, tmp_path)


# --- the first moments of a start


GRACE = {"routing.startGrace": "3000"}


def test_a_request_in_the_first_moments_waits_for_racks_that_are_not_heard_yet(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        late = await mesh.start_orc("late", flags=GRACE)
        assert "looks for its racks" in late.not_ready()
        asked = asyncio.ensure_future(mesh.infer(late))
        await asyncio.sleep(1.0)
        assert not asked.done()
        await mesh.rack("r1")
        assert (await asked)["workerId"] == "r1"

    story(told, tmp_path)


def test_what_is_not_there_after_the_grace_is_refused_as_ever(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        late = await mesh.start_orc("late", flags=GRACE)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(errors.NoWorkersAvailable) as refused:
            await mesh.infer(late)
        assert 2.5 <= asyncio.get_running_loop().time() - begun <= 3.5
        assert refused.value.data["modelSeen"] is False
        assert late.not_ready() == ""
        with pytest.raises(errors.NoWorkersAvailable):
            await mesh.infer(late)
        assert asyncio.get_running_loop().time() - begun <= 4.0

    story(told, tmp_path)


def test_who_cannot_wait_is_told_that_it_has_just_started(tmp_path: Path) -> None:
    async def told(mesh: Several) -> None:
        late = await mesh.start_orc("late", flags={**GRACE, "routing.queueLimit": "0"})
        for ask in (
            lambda: mesh.infer(late),
            lambda: mesh.asker.request(late.endpoint, "findAvailableWorker", {"modelId": "m1"}, timeout=5.0),
            lambda: mesh.asker.request(late.endpoint, "drainWorker", {"workerId": "r1"}, timeout=5.0),
        ):
            with pytest.raises(errors.Unavailable, match="just started") as told_so:
                await ask()
            assert told_so.value.not_started
            assert told_so.value.retry_after_ms

    story(told, tmp_path)


def test_racks_that_were_known_are_dialled_at_once_and_end_the_grace(tmp_path: Path) -> None:
    """Also where nobody hears them any more, and they do not hear of the new start."""

    async def told(mesh: Several) -> None:
        deaf = mesh.bus.join("test-mesh", deaf=True)
        rack = await mesh.rack("r1", heard=deaf)
        await until(lambda: states(mesh.a) == {"r1": "healthy"}, AGREED)
        await mesh.crash(mesh.a)
        deaf.mute = True
        again = await mesh.start_orc("a", epoch=2, flags=GRACE, heard=mesh.bus.join("nobody-else"))
        begun = asyncio.get_running_loop().time()
        assert (await mesh.infer(again))["workerId"] == "r1"
        assert asyncio.get_running_loop().time() - begun < AT_ONCE
        await until(lambda: again.not_ready() == "", 1.0)
        await rack.stop()
        await until(lambda: states(again) == {}, AGREED)
        assert again.known_racks.ids() == []

    story(told, tmp_path)


def test_a_rack_that_did_not_come_back_costs_the_grace_and_is_forgotten_after_some_starts(
    tmp_path: Path,
) -> None:
    async def told(mesh: Several) -> None:
        rack = await mesh.rack("r1")
        await until(lambda: states(mesh.a) == {"r1": "healthy"}, AGREED)
        await mesh.crash(mesh.a)
        await mesh.crash(rack)
        for start in range(2, 12):
            orc = await mesh.start_orc("a", epoch=start, flags=GRACE, heard=mesh.bus.join("nobody-else"))
            assert orc.known_racks.ids() == ["r1"]
            await until(lambda orc=orc: orc.not_ready() == "", 3.5)  # type: ignore[misc]
            await mesh.crash(orc)
        orc = await mesh.start_orc("a", epoch=12, heard=mesh.bus.join("nobody-else"))
        assert orc.known_racks.ids() == []

    story(told, tmp_path)


def test_operators_who_enter_and_take_out_for_ever_are_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions are kept for days; where there is no room, the oldest go early, and both still agree."""
    monkeypatch.setattr(replication, "MOST_ROWS", 20)

    async def told(mesh: Several) -> None:
        for number in range(100):
            registered(mesh.a, f"far-{number}")
            mesh.a.unregister(f"far-{number}")
            await asyncio.sleep(0.1)
        registered(mesh.a, "last")
        await until(lambda: states(mesh.b) == states(mesh.a) and "last" in states(mesh.b), AGREED)
        assert len(mesh.a.records.book) <= 20
        assert mesh.facts("worker.task_failed") == []

    story(told, tmp_path)
