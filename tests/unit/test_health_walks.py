"""Ten thousand random walks of 200 steps through the health monitor: what must hold whatever happens.

Each walk is drawn from its own seed, which a failure prints. After every step: routing was told what
the state allows, nobody left a quarantine early, judgement kept to its share, at most one probe is in
flight. At the end: the counts kept along the way are those recomputed, and every worker whose link is
up and who behaves is healthy again within a bounded time.
"""

from __future__ import annotations

import random

import pytest

from wrk_orchestrator.health_arithmetic import quarantine_allowance
from wrk_orchestrator.health_changes import Change, CloseLink, ProbeNow, SetLimit, Transition
from wrk_orchestrator.health_monitor import HealthMonitor
from wrk_orchestrator.health_policy import HealthPolicy
from wrk_orchestrator.health_table import LINKED, REPORTED, Observation, State

O, S = Observation, State  # noqa: E741

WALKS, STEPS = 10_000, 200
PARTS = 20
OFFERS = {"w1": ("a",), "w2": ("a", "b"), "w3": ("a", "b"), "w4": ("b", "c")}
NAMES = list(OFFERS)
WORDS = {O.OPERATOR_DRAIN: "drain", O.OPERATOR_QUARANTINE: "quarantine", O.OPERATOR_RELEASE: ""}
FAILURES = [O.CALL_FAILED, O.CALL_TIMED_OUT, O.PROBE_FAILED]
SEEN = [*sorted(REPORTED), O.BEAT, O.CALL_OK, O.PROBE_OK, *FAILURES * 4, *[O.LINK_UP] * 5]
PAUSES = [0.001, 0.25, 0.25, 0.25, 1.0, 2.3, 4.0, 11.0, 700.0]
PRESENT = {S.HEALTHY, S.SUSPECT, S.PROBATION, S.QUARANTINED}


class Walk:
    """A monitor under random stimuli and a model of what its shell knows."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # Half of the walks never doubt themselves, so that long steps are silence and not our own pause.
        self.policy = HealthPolicy(tick_interval=1e9 if seed % 2 else 0.25)
        self.monitor = HealthMonitor(self.policy, self.rng)
        self.now = self.rng.uniform(-1000.0, 1000.0)
        self.states = dict.fromkeys(OFFERS, S.JOINING)
        self.full = {name: self.rng.choice([1, 3, 8]) for name in OFFERS}
        self.limits: dict[str, int] = {}
        self.holds = dict.fromkeys(OFFERS, "")
        self.until: dict[str, float] = {}
        self.probes: dict[str, float] = {}
        for name, models in OFFERS.items():
            self.take(self.monitor.add(name, models, self.full[name], self.now), None)

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.28:
            self.now += self.rng.choice(PAUSES)
            self.take(self.monitor.tick(self.now, self.rng.choice([0.0, 0.0, 0.0, 0.6])), None)
        elif chance < 0.30:
            for _ in range(self.rng.choice([4, 10, 15])):
                self.tick()
        else:
            name, seen = self.rng.choice(NAMES), self.rng.choice(SEEN)
            self.see(name, seen, busy=self.rng.random() < 0.3)

    def tick(self) -> None:
        self.now += 0.25
        self.take(self.monitor.tick(self.now, 0.0), None)

    def see(self, name: str, seen: Observation, *, busy: bool = False) -> None:
        if seen in (O.PROBE_OK, O.PROBE_FAILED, O.PROBE_SLOW, O.SAYS_UNHEALTHY):
            self.probes.pop(name, None)
        if seen is O.LINK_UP:
            self.probes.pop(name, None)  # what the old link was asked, the new one may be asked again
        self.holds[name] = WORDS.get(seen, self.holds[name])
        self.take(self.monitor.observe(name, seen, self.now, busy=busy), seen)
        assert not (self.holds[name] and self.limits[name]), "a held worker is routable"

    def take(self, changes: tuple[Change, ...], seen: Observation | None) -> None:
        closing: set[str] = set()
        for change in changes:
            if isinstance(change, SetLimit):
                assert change.limit != self.limits.get(change.worker_id)
                assert change.worker_id not in closing, "routing must stop before the link closes"
                self.limits[change.worker_id] = change.limit
            elif isinstance(change, Transition):
                self.moved(change, seen)
            elif isinstance(change, CloseLink):
                closing.add(change.worker_id)
            elif isinstance(change, ProbeNow):
                self.probed(change.worker_id)
        for change in changes:
            self.check_limit(change.worker_id)

    def moved(self, change: Transition, seen: Observation | None) -> None:
        name = change.worker_id
        assert self.states[name] is change.old
        assert change.cause
        self.states[name] = change.new
        if change.old is S.QUARANTINED and change.new in (S.HEALTHY, S.PROBATION):
            assert seen is O.OPERATOR_RELEASE or self.now >= self.until[name], "early exit from quarantine"
        if change.new is S.QUARANTINED and not self.holds[name]:
            left = self.monitor.describe(name, self.now)["quarantineLeftMs"]
            self.until[name] = self.now + left / 1000 - 0.0006  # rounded to milliseconds
            assert left <= self.policy.quarantine_max * 1000
            self.check_share(name)

    def check_limit(self, name: str) -> None:
        state, limit, full = self.states[name], self.limits[name], self.full[name]
        if state is S.HEALTHY:
            assert limit == full
        elif state is S.PROBATION:
            assert 1 <= limit <= full
        else:
            assert limit == 0

    def crowd(self, model: str) -> tuple[int, int, int]:
        known = [name for name, models in OFFERS.items() if model in models]
        present = [n for n in known if self.states[n] in PRESENT and self.holds[n] != "quarantine"]
        return len(known), len(present), sum(self.states[n] is S.QUARANTINED for n in present)

    def check_share(self, name: str) -> None:
        for model in OFFERS[name]:
            known, present, condemned = self.crowd(model)
            allowed = quarantine_allowance(known, present, self.policy.max_quarantined_share)
            assert condemned <= allowed, f"{condemned} of {present} workers of {model} quarantined"

    def probed(self, name: str) -> None:
        assert self.states[name] in LINKED
        assert self.now >= self.probes.get(name, self.now), "two probes in flight"
        self.probes[name] = self.now + 2 * self.policy.probe_timeout

    def everybody_behaves(self, seconds: float) -> None:
        """Links come up, beats come, probes are answered; healthy again within that time."""
        for name in OFFERS:
            self.see(name, O.LINK_UP)
        for _ in range(round(seconds / 0.25)):
            if set(self.states.values()) == {S.HEALTHY}:
                return
            for name in OFFERS:
                self.take(self.monitor.beat(name, self.now), None)
            self.tick()
            for name in list(self.probes):
                self.see(name, O.PROBE_OK)
        raise AssertionError(f"a dead end: {self.states}")

    def recovers_by_itself(self) -> None:
        for name, hold in self.holds.items():
            if hold:
                self.see(name, O.OPERATOR_RELEASE)
        self.everybody_behaves(self.policy.quarantine_max + 90.0)

    def recovers_by_the_operator_s_word(self) -> None:
        for name in OFFERS:
            self.see(name, O.OPERATOR_RELEASE)
        self.everybody_behaves(20.0)

    def counts_agree(self) -> None:
        """The counts kept along the way against those recomputed from nothing."""
        models = {model for offer in OFFERS.values() for model in offer}
        assert self.monitor._share.counts() == {model: self.crowd(model) for model in models}
        figures = self.monitor.aggregate()
        assert figures["states"] == {state.value: list(self.states.values()).count(state) for state in S}


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_the_invariants_hold_and_everybody_can_recover(part: int) -> None:
    visited: set[State] = set()
    for seed in range(part, WALKS, PARTS):
        walk = Walk(seed)
        try:
            for _ in range(STEPS):
                walk.step()
                visited.update(walk.states.values())
            walk.counts_agree()
            if seed // PARTS % 10 == 0:
                walk.recovers_by_itself()
            elif seed // PARTS % 10 == 1:
                walk.recovers_by_the_operator_s_word()
        except Exception as error:
            error.add_note(f"in the walk of seed {seed}")
            raise
    assert visited == set(State), "the walks do not go everywhere"
