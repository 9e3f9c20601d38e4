"""Prefix-aware: prompts go where their beginning was read, unless that worker is too loaded.

The last part is a small mesh at work: simulated models that keep what they have read, and callers whose
prompts share beginnings. What is asserted there is what the strategy is for.
"""

from __future__ import annotations

from random import Random

import pytest

from racks.prefix_cache import BLOCK, PrefixCache
from tests.fakes.balanced import BalancedMesh, ClosedLoop, Machine
from wrk_orchestrator.affinity import Affinity
from wrk_orchestrator.strategies import DEFAULTS, Tuning, prefixes
from wrk_orchestrator.strategies.prefix_aware import LEAST_BYTES, LEAST_SHARE
from wrk_orchestrator.strategies.prefixes import MOST_HOLDERS, Prefixes

SYSTEM = bytes(Random(1).randbytes(2048))
OTHER = bytes(Random(2).randbytes(2048))


def mesh_of(workers: int, room: int = 8, tuning: Tuning = DEFAULTS) -> BalancedMesh:
    return BalancedMesh("prefix-aware", workers, room=room, tuning=tuning)


def asked(*parts: bytes) -> Affinity:
    return Affinity(prompt=b"".join(parts))


def test_a_prompt_goes_where_its_beginning_was_read() -> None:
    mesh = mesh_of(4)
    home = mesh.pick(affinity=asked(SYSTEM, b"one" * 100))
    away = mesh.pick(affinity=asked(OTHER, b"one" * 100))
    assert away != home
    for question in (b"two", b"three", b"four"):
        assert mesh.pick(affinity=asked(SYSTEM, question * 100)) == home
        assert mesh.pick(affinity=asked(OTHER, question * 100)) == away


def test_the_longest_beginning_counts() -> None:
    mesh = mesh_of(3)
    first = mesh.pick(affinity=asked(SYSTEM))
    longer = mesh.pick(first, affinity=asked(SYSTEM, OTHER))
    assert mesh.pick(affinity=asked(SYSTEM, OTHER, b"and more")) == longer
    assert mesh.pick(affinity=asked(SYSTEM, b"something else")) == longer  # of equals, who read it last
    assert mesh.pick(longer, affinity=asked(SYSTEM, OTHER)) == first


def test_a_turn_of_a_talk_follows_the_turns_before() -> None:
    mesh = mesh_of(8)
    rng = Random(3)
    for _ in range(20):
        talk = rng.randbytes(300)
        home = mesh.pick(affinity=asked(talk))
        for _ in range(5):
            talk += rng.randbytes(300)
            assert mesh.pick(affinity=asked(talk)) == home


def test_new_prompts_and_those_that_share_next_to_nothing_go_to_the_least_loaded_in_turn() -> None:
    mesh = mesh_of(4)
    beginning = SYSTEM[: LEAST_BYTES - 1]
    assert len({mesh.pick(affinity=asked(beginning, b"%d" % number * 50)) for number in range(4)}) == 4
    beginning = SYSTEM[: int(0.8 * LEAST_SHARE * 4000)]
    rng = Random(4)
    assert len({mesh.pick(affinity=asked(beginning, rng.randbytes(3000))) for _ in range(4)}) == 4


def test_new_prompts_spread_evenly_though_prompts_that_are_known_come_between_them() -> None:
    mesh = mesh_of(4)
    rng = Random(5)
    homes: list[str] = []
    prompts: list[bytes] = []
    for number in range(40):
        prompts.append(rng.randbytes(500))
        homes.append(mesh.pick(affinity=asked(prompts[-1])))
        for _ in range(number % 3):
            mesh.pick(affinity=asked(rng.choice(prompts)))
    assert sorted(homes.count(f"w{worker}") for worker in range(4)) == [10, 10, 10, 10]


def test_requests_without_a_prompt_go_to_the_least_loaded() -> None:
    mesh = mesh_of(3)
    mesh.report("w1", 3)
    mesh.report("w2", 1)
    assert mesh.pick() == "w0"


def test_who_knows_a_prompt_may_have_a_few_requests_more_and_then_another_learns_it() -> None:
    mesh = mesh_of(2)
    prompt = asked(SYSTEM)
    homes = [mesh.lease(affinity=prompt).worker.worker_id for _ in range(4)]
    assert homes[:3] == [homes[0]] * 3
    assert homes[3] != homes[0]
    assert mesh.lease(affinity=prompt).worker.worker_id == homes[3]  # it has read it last, and is freer


@pytest.mark.parametrize(("gap", "most"), [(0, 1), (1, 2), (5, 6)])
def test_the_gap_is_a_setting(gap: int, most: int) -> None:
    mesh = mesh_of(2, tuning=Tuning(prefix_load_gap=gap))
    homes = [mesh.lease(affinity=asked(SYSTEM)).worker.worker_id for _ in range(most + 1)]
    assert homes.count(homes[0]) == most


def test_where_many_are_in_flight_the_gap_is_a_quarter() -> None:
    mesh = mesh_of(2, room=200)
    prompt = asked(SYSTEM)
    home = mesh.pick(affinity=prompt)
    away = "w1" if home == "w0" else "w0"
    mesh.report(away, 40)
    mesh.report(home, 50)
    assert mesh.lease(affinity=prompt).worker.worker_id == home
    assert mesh.lease(affinity=prompt).worker.worker_id == away


def test_a_full_or_excluded_worker_is_passed_over_for_the_next_who_knows_it() -> None:
    mesh = mesh_of(4)
    first = mesh.pick(affinity=asked(SYSTEM))
    second = mesh.pick(first, affinity=asked(SYSTEM))
    assert mesh.pick(affinity=asked(SYSTEM)) == second
    assert mesh.pick(second, affinity=asked(SYSTEM)) == first
    mesh.balancer.set_limit(first, 0)
    assert mesh.pick(affinity=asked(SYSTEM)) == second


def test_a_worker_that_was_started_anew_has_read_nothing() -> None:
    mesh = mesh_of(2)
    home = mesh.pick(affinity=asked(SYSTEM))
    away = "w1" if home == "w0" else "w0"
    mesh.report(home, 1)
    mesh.join(home, room=8, epoch=0, name="the same process, with another offer")
    assert mesh.pick(affinity=asked(SYSTEM)) == home
    mesh.join(home, room=8, epoch=7)
    mesh.report(home, 1)
    assert mesh.pick(affinity=asked(SYSTEM)) == away


def test_what_was_read_for_one_model_is_not_known_to_another() -> None:
    mesh = mesh_of(0)
    for worker_id in ("w0", "w1"):
        mesh.join(worker_id, room=8, models=("m", "n"))
    home = mesh.pick(affinity=asked(SYSTEM))
    mesh.report(home, 1)
    with mesh.balancer.pick("n", None, (), mesh.now, asked(SYSTEM)) as lease:
        assert lease.worker.worker_id != home


# The table.


def test_the_table_keeps_what_was_used_last_and_longer_beginnings_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefixes, "MOST_BEGINNINGS", 6)
    table = Prefixes()
    table.note(((128, 11), (256, 12), (384, 13)), 0, ("a", 1))
    table.note(((128, 21), (256, 22), (384, 23)), 0, ("b", 1))
    table.note(((128, 11), (256, 12)), 0, ("a", 1))
    assert len(table) == 6
    table.note(((128, 31), (256, 32)), 0, ("c", 1))
    assert len(table) == 6
    gone = [key for key in (11, 12, 13, 21, 22, 23, 31, 32) if not table.holders(key, 0)]
    assert gone == [13, 23]


def test_of_one_beginning_the_last_holders_are_kept() -> None:
    table = Prefixes()
    for number in range(MOST_HOLDERS + 3):
        table.note(((128, 1),), 0, (f"w{number}", 0))
    table.note(((128, 1),), 0, ("w9", 0))
    holders = table.holders(1, 0)
    assert len(holders) == len(set(holders)) == MOST_HOLDERS
    assert holders[-2:] == (("w18", 0), ("w9", 0))
    assert ("w2", 0) not in holders


# At work.

RACKS, CALLERS, CALLS = 8, 32, 3000
PROMPT_BYTES, SHARED, CACHED_PROMPTS = 4096, 0.7, 12


def at_work(strategy: str, seed: int, groups: int) -> tuple[float, float, float]:
    """Share of prompts found in caches; most requests and most load of one rack, as multiples of the mean."""
    rng = Random(seed)
    shared = int(SHARED * PROMPT_BYTES)
    beginnings = [rng.randbytes(shared // 2).hex() for _ in range(groups)]
    mesh = BalancedMesh(strategy, RACKS, seed=seed, room=8)
    caches = [PrefixCache(CACHED_PROMPTS * PROMPT_BYTES // BLOCK) for _ in range(RACKS)]

    def seconds(cache: PrefixCache, prompt: bytes) -> float:
        return 0.7 * (1 - cache.take(prompt.decode()) / PROMPT_BYTES) + rng.expovariate(1 / 0.8)

    def ask(_: int) -> Affinity:
        text = rng.choice(beginnings) + rng.randbytes((PROMPT_BYTES - shared) // 2).hex()
        return Affinity(prompt=text.encode())

    machines = {
        f"w{n}": Machine(8, lambda prompt, cache=cache: seconds(cache, prompt))
        for n, cache in enumerate(caches)
    }
    loop = ClosedLoop(mesh, machines, ask)
    loop.run(CALLERS, CALLS)
    hits = sum(cache.hits for cache in caches) / sum(cache.asked for cache in caches)
    load = loop.load_seconds
    return hits, max(loop.answered.values()) * RACKS / CALLS, max(load.values()) * RACKS / load.total()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("groups", [24, 64])
def test_caches_are_hit_nearly_twice_as_often_as_in_turn_and_no_rack_is_overloaded(
    groups: int, seed: int
) -> None:
    hits, most_answered, most_load = at_work("prefix-aware", seed, groups)
    in_turn, _, _ = at_work("round-robin", seed, groups)
    assert hits >= 1.8 * in_turn
    assert most_answered <= 1.5
    assert most_load <= 1.5


def test_a_beginning_that_everybody_has_spreads_as_far_as_its_load_asks_for() -> None:
    mesh = mesh_of(4)
    machines = {f"w{n}": Machine(8, lambda _: 1.0) for n in range(4)}
    loop = ClosedLoop(mesh, machines, lambda caller: asked(SYSTEM, b"%d" % caller * 300))
    loop.run(callers=8, calls=800)
    assert max(loop.load_seconds.values()) * 4 <= 1.5 * loop.load_seconds.total()
