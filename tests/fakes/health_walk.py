"""Random walks through the health monitor, and what must hold whatever happens.

    walk = Walk(seed)
    walk.wander()

After every step: routing was told what the state allows, nobody left a quarantine early, not by leaving
and coming again either, judgement kept to its share, panic let in exactly those that it may, at most one
probe of each is in flight and no more of all than the rate allows. A walk is drawn from its seed alone.
"""

from __future__ import annotations

import random
from collections import deque
from math import inf

from wrk_orchestrator.health_arithmetic import in_panic, quarantine_allowance
from wrk_orchestrator.health_changes import (
    Change,
    CloseLink,
    PanicBegan,
    PanicEnded,
    ProbeNow,
    SetLimit,
    Transition,
)
from wrk_orchestrator.health_monitor import HealthMonitor
from wrk_orchestrator.health_policy import HealthPolicy
from wrk_orchestrator.health_probes import BURST_SECONDS
from wrk_orchestrator.health_table import LINKED, REPORTED, Observation, State

O, S = Observation, State  # noqa: E741

STEPS = 200
OFFERS = {"w1": ("a",), "w2": ("a", "b"), "w3": ("a", "b"), "w4": ("b", "c")}
MODELS = {model: [name for name, offer in OFFERS.items() if model in offer] for model in "abc"}
NAMES = list(OFFERS)
WORDS = {O.OPERATOR_DRAIN: "drain", O.OPERATOR_QUARANTINE: "quarantine", O.OPERATOR_RELEASE: ""}
FAILURES = [O.CALL_FAILED, O.CALL_TIMED_OUT, O.PROBE_FAILED]
SEEN = [*sorted(REPORTED), O.BEAT, O.CALL_OK, O.PROBE_OK, *FAILURES * 4, *[O.LINK_UP] * 5]
HEARD = {O.BEAT, O.CALL_OK, O.PROBE_OK, O.SAYS_UNHEALTHY, O.LINK_UP}
PAUSES = [0.001, 0.25, 0.25, 0.25, 1.0, 2.3, 4.0, 11.0, 700.0]
PRESENT = {S.HEALTHY, S.SUSPECT, S.PROBATION, S.QUARANTINED}
IN_SERVICE = {S.HEALTHY, S.PROBATION}
RATE = 4  # probes a second


class Walk:
    """A monitor under random stimuli and a model of what its shell knows."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # Half of the walks never doubt themselves, so that long steps are silence and not our own pause.
        self.doubts = seed % 2 == 0
        share = self.rng.choice([0.0, 0.25, 0.5, 1.0])
        tick = 0.25 if self.doubts else 1e9
        self.policy = HealthPolicy(tick_interval=tick, panic_share=share, max_probe_rate=RATE)
        self.monitor = HealthMonitor(self.policy, self.rng)
        self.now = self.rng.uniform(-1000.0, 1000.0)
        self.states = dict.fromkeys(OFFERS, S.JOINING)
        self.full = {name: self.rng.choice([1, 3, 8]) for name in OFFERS}
        self.limits: dict[str, int] = {}
        self.holds = dict.fromkeys(OFFERS, "")
        self.until: dict[str, float] = {}
        self.probes: dict[str, float] = {}
        self.probed_at: deque[float] = deque()
        self.heard = dict.fromkeys(OFFERS, -inf)
        self.panicking: set[str] = set()
        self.visited: set[State] = set()
        self.panics = 0
        for name, models in OFFERS.items():
            self.take(self.monitor.add(name, models, self.full[name], self.now), None)

    def wander(self) -> None:
        for _ in range(STEPS):
            self.step()
            self.visited.update(self.states.values())
        self.counts_agree()
        self.panic_is_what_it_should()

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.28:
            self.now += self.rng.choice(PAUSES)
            lag = self.rng.choice([0.0, 0.0, 0.0, 0.6]) if self.doubts else 0.0
            self.take(self.monitor.tick(self.now, lag), None)
            self.check_silence()
        elif chance < 0.30:
            for _ in range(self.rng.choice([4, 10, 15])):
                self.tick()
        elif chance < 0.31:
            self.leaves_and_comes_again(self.rng.choice(NAMES))
        else:
            name, seen = self.rng.choice(NAMES), self.rng.choice(SEEN)
            self.see(name, seen, busy=self.rng.random() < 0.3)

    def tick(self) -> None:
        self.now += 0.25
        self.take(self.monitor.tick(self.now, 0.0), None)
        self.check_silence()

    def leaves_and_comes_again(self, name: str) -> None:
        gone = self.monitor.remove(name)
        self.states[name], self.holds[name] = S.JOINING, ""
        self.probes.pop(name, None)
        del self.limits[name]
        self.take((*gone, *self.monitor.add(name, OFFERS[name], self.full[name], self.now)), None)

    def see(self, name: str, seen: Observation, *, busy: bool = False) -> None:
        if seen in (O.PROBE_OK, O.PROBE_FAILED, O.PROBE_SLOW, O.SAYS_UNHEALTHY):
            self.probes.pop(name, None)
        if seen is O.LINK_UP:
            self.probes.pop(name, None)  # what the old link was asked, the new one may be asked again
        self.holds[name] = WORDS.get(seen, self.holds[name])
        if seen is O.OPERATOR_RELEASE:
            self.until.pop(name, None)
        if seen in HEARD:
            self.heard[name] = self.now
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
            elif isinstance(change, PanicBegan):
                assert change.model not in self.panicking
                self.panicking.add(change.model)
                self.panics += 1
            elif isinstance(change, PanicEnded):
                self.panicking.remove(change.model)
        for change in changes:
            if not isinstance(change, PanicBegan | PanicEnded):
                self.check_limit(change.worker_id)
        if changes:
            self.panic_is_what_it_should()

    def moved(self, change: Transition, seen: Observation | None) -> None:
        name = change.worker_id
        assert self.states[name] is change.old
        assert change.cause
        self.states[name] = change.new
        if change.old is S.QUARANTINED and change.new in (S.HEALTHY, S.PROBATION):
            assert self.now >= self.until.get(name, -inf), "early exit from quarantine"
        if change.new is S.PROBATION:
            self.until.pop(name, None)  # also cut short, where the share is used up when it returns
        if change.new is S.HEALTHY:
            assert self.now >= self.until.get(name, -inf), "a way around quarantine"
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
        elif state is S.QUARANTINED:
            assert 0 <= limit <= full
        else:
            assert limit == 0

    def panic_is_what_it_should(self) -> None:
        """Recomputed from nothing: which models are in panic, and who is let in."""
        out = {name for name in NAMES if self.is_shut_out(name)}
        should = set()
        for model, names in MODELS.items():
            routable = sum(self.states[name] in IN_SERVICE for name in names)
            if in_panic(routable, len(out.intersection(names)), self.policy.panic_share):
                should.add(model)
        assert self.panicking == should == set(self.monitor.aggregate()["panic"])
        for name in NAMES:
            if self.states[name] is S.QUARANTINED:
                let_in = name in out and not should.isdisjoint(OFFERS[name])
                assert (self.limits[name] > 0) is let_in, f"{name}: {self.limits[name]} in panic {should}"

    def is_shut_out(self, name: str) -> bool:
        return (
            self.states[name] is S.QUARANTINED
            and not self.holds[name]
            and not self.monitor._records[name].quiet
        )

    def check_silence(self) -> None:
        """After a tick nobody is routable who was silent for long, unless we doubt ourselves."""
        for name, limit in self.limits.items():
            quiet = self.now - self.heard[name]
            assert self.doubts or not limit or quiet <= self.policy.suspect_after, "a silent one is let in"

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
        self.probed_at.append(self.now)
        while self.probed_at[0] <= self.now - 1.0:
            self.probed_at.popleft()
        assert len(self.probed_at) <= RATE * (1 + BURST_SECONDS), "too many probes in one second"

    def everybody_behaves(self, seconds: float) -> None:
        """Links come up, beats come, probes are answered; healthy again within that time."""
        for name in OFFERS:
            self.see(name, O.LINK_UP)
        for _ in range(round(seconds / 0.25)):
            if set(self.states.values()) == {S.HEALTHY}:
                return
            for name in OFFERS:
                self.heard[name] = self.now
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


def walk_all(seeds: range) -> tuple[set[State], int]:
    """The states that were visited, and how often models were in panic; every fifth recovers at its end."""
    visited: set[State] = set()
    panics = 0
    for turn, seed in enumerate(seeds):
        walk = Walk(seed)
        try:
            walk.wander()
            if turn % 10 == 0:
                walk.recovers_by_itself()
            elif turn % 10 == 1:
                walk.recovers_by_the_operator_s_word()
        except Exception as error:
            error.add_note(f"in the walk of seed {seed}")
            raise
        visited |= walk.visited
        panics += walk.panics
    return visited, panics
