"""`python -m tests.sim SEED [WORD ...]`: play one seed, show its faults, its log and what was broken.

With WORDs only the lines of the log that have them all. The exit code is 1 when a promise was broken.
"""

from __future__ import annotations

import sys

from tests.sim.simulation import simulate


def main(words: list[str]) -> int:
    if not words or not words[0].isdigit():
        print("usage: python -m tests.sim SEED [WORD ...]", file=sys.stderr)
        return 2
    outcome = simulate(int(words[0]))
    for line in outcome.lines:
        if all(word in line for word in words[1:]):
            print(line)
    plan = outcome.plan
    print(f"\n{len(plan.racks)} racks, {len(plan.orchestrators)} orchestrators, {plan.strategy}")
    for mishap in plan.mishaps:
        what = " ".join((mishap.kind, mishap.target, *mishap.hosts))
        print(f"  {mishap.at:7.3f} to {mishap.until:7.3f}  {what}")
    for violation in outcome.violations:
        print(f"BROKEN {violation}")
    print(f"{len(outcome.history):,} events, {len(outcome.violations)} promises broken")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
