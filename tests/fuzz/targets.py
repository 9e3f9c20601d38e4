"""What can be fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.fuzz import peer_target, seeds, server_target, steps, wire_target
from tests.fuzz.mutate import Bytes, mutated_message, mutated_steps


@dataclass(frozen=True)
class Target:
    """`run` raises for what is a finding. `deeds` name the steps, if the bytes stand for such."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    mutated: Callable[[bytes, int, Random, Bytes], bytes]
    share: float  # of the time
    deeds: tuple[str, ...] = ()

    def shown(self, data: bytes) -> str:
        return steps.shown(steps.unpack(data), self.deeds) if self.deeds else repr(data)


TARGETS = {
    "wire": Target(wire_target.run, seeds.of_wire, mutated_message, 0.2),
    "server": Target(
        server_target.run, seeds.of_server, mutated_steps, 0.4, tuple(server_target.Deed.__members__)
    ),
    "peer": Target(peer_target.run, seeds.of_peer, mutated_steps, 0.4, tuple(peer_target.Deed.__members__)),
}
