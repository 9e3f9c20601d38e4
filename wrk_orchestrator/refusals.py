"""Why no worker was picked: the error that fits, with what exists in its `data`.

Refusing must stay cheap, because it happens most when there is most to do: it reads counts that the
pools keep, and asks the index about a bounded number of requirements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from wrk_base.errors import CapacityExceeded, NoWorkersAvailable, NoWorkersMatch, WrkError

from .candidate import Candidate
from .pools import Pool
from .records import Want
from .service_registry import ServiceRegistry

NAMED = 20  # models or requirements named in one error
RETRY_S = 1.0  # when nothing better is known: one beat, after which a worker may be back
RETRY_RANGE_S = (0.05, 30.0)


def refusal(
    registry: ServiceRegistry,
    pool: Pool | None,
    plain: Pool | None,
    model: str,
    tried: Collection[Candidate],
) -> WrkError:
    """`pool` is that of the request, `plain` that of its model, `tried` the workers it has tried."""
    if pool is None or plain is None or not plain.routable:
        return _unavailable(registry, model, "no worker serves it now")
    if not pool.matching:
        return _mismatch(registry, pool.want)
    if not pool.routable:
        return _unavailable(registry, model, "those that meet the requirements are out of service")
    left = pool.routable - sum(
        candidate.limit > 0 and model in candidate.record.models and pool.want.met_by(candidate.record)
        for candidate in tried
    )
    if not left:
        return _unavailable(registry, model, "every worker that could answer was tried")
    return CapacityExceeded(
        f"model {model}: {left} worker{'s' * (left != 1)} could answer, all at capacity",
        data={"model": model, "workers": left},
        retry_after_ms=_one_answer_ms(pool),
    )


def _unavailable(registry: ServiceRegistry, model: str, reason: str) -> NoWorkersAvailable:
    seen, models = registry.seen(model), registry.some_models(NAMED)
    served = f"known here are {', '.join(models)}" if models else "no model is known here"
    return NoWorkersAvailable(
        f"model {model}: {reason if seen else 'never seen here'}; {served}",
        data={"model": model, "modelSeen": seen, "models": models},
        retry_after_ms=round(RETRY_S * 1000) if seen else None,
    )


def _mismatch(registry: ServiceRegistry, want: Want) -> NoWorkersMatch:
    unmet = {name: part for name, part in islice(_parts(want), NAMED) if not registry.anybody(part)}
    reason = f"nobody has {', '.join(unmet)}" if unmet else "nobody has all that is required"
    data: dict[str, Any] = {"model": want.model, "unmet": list(unmet)}
    if any(part.tags for part in unmet.values()):
        there = data["capabilities"] = registry.capabilities(want.model)[:NAMED]
        reason += f"; there are {', '.join(there)}" if there else ""
    if any(part.min_context for part in unmet.values()):
        longest = data["longestContext"] = registry.longest_context(want.model)
        reason += (
            f"; the longest context that is told is {longest}" if longest else "; nobody tells a context"
        )
    return NoWorkersMatch(f"model {want.model}: {reason}", data=data)


def _parts(want: Want) -> Iterator[tuple[str, Want]]:
    """Each requirement by itself, with its name."""
    if want.min_capacity:
        yield f"capacity {want.min_capacity}", Want(want.model, min_capacity=want.min_capacity)
    if want.min_context:
        yield f"context {want.min_context}", Want(want.model, min_context=want.min_context)
    if want.resumes:
        yield f"streams of {want.resumes} to go on with", Want(want.model, resumes=want.resumes)
    for tag in sorted(want.tags):
        yield f"capability {tag}", Want(want.model, tags=frozenset((tag,)))
    for key, value in sorted(want.labels):
        yield f"label {key}={value}", Want(want.model, labels=frozenset(((key, value),)))


def _one_answer_ms(pool: Pool) -> int:
    """When a slot may be free: after about one answer."""
    typical = pool.latencies.typical
    least, most = RETRY_RANGE_S
    return round(1000 * (RETRY_S if typical is None else min(most, max(least, typical.mean))))
