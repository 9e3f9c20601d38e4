"""Which workers offer what: a search by any number of requirements in a tenth of a millisecond.

Each worker has a bit; whatever workers can have in common (a model, a tag, a label, what they take at
once, what they tell of a model) has a number whose set bits are its workers. A search is a few bitwise
operations, below a microsecond each among 10,000 workers, and one pass over the bits that are left. What
is indexed costs one bit per worker, 1.3 kB among 10,000, however many of them share it: good up to some
20,000. All that a worker tells of one model is one such thing, so that its capabilities do not multiply
with its models. Judges nobody; `Want.met_by` is the meaning, and a property test holds this to it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from itertools import compress, islice
from typing import NamedTuple, TypeVar

from .records import Want, WorkerRecord

DIGITS_TO_NUMBERS = bytes.maketrans(b"01", b"\x00\x01")
LOOKED_AT = 100  # tags, and kinds of a model, that a refusal looks at to tell what exists: some 50 us

K = TypeVar("K", bound=Hashable)


class Kind(NamedTuple):
    """What a worker tells of one model."""

    capabilities: frozenset[str]
    context_length: int


NOTHING_TOLD: dict[Kind, int] = {}


class FactIndex:
    """Worker ids by what they offer; a worker that leaves gives its bit to the next."""

    def __init__(self) -> None:
        self._ids: list[str] = []  # bit -> worker id
        self._bits: dict[str, int] = {}
        self._free: list[int] = []
        self._serving: dict[str, int] = {}
        self._tagged: dict[str, int] = {}
        self._labelled: dict[tuple[str, str], int] = {}
        self._sized: dict[int, int] = {}
        self._resuming: dict[str, int] = {}  # type -> who can go on with its streams
        self._told: dict[str, dict[Kind, int]] = {}  # model -> what is told of it, by whom

    def enter(self, worker: WorkerRecord) -> None:
        bit = self._free.pop() if self._free else len(self._ids)
        self._ids[bit : bit + 1] = [worker.worker_id]
        self._bits[worker.worker_id] = bit
        _set(self._serving, worker.models, bit)
        _set(self._tagged, worker.tags, bit)
        _set(self._labelled, worker.labels.items(), bit)
        _set(self._sized, (worker.max_concurrent,), bit)
        _set(self._resuming, _resumes(worker), bit)
        for model, kind in _kinds(worker):
            _set(self._told.setdefault(model, {}), (kind,), bit)

    def leave(self, worker: WorkerRecord) -> None:
        """`worker` is as it entered."""
        bit = self._bits.pop(worker.worker_id)
        self._free.append(bit)
        _clear(self._serving, worker.models, bit)
        _clear(self._tagged, worker.tags, bit)
        _clear(self._labelled, worker.labels.items(), bit)
        _clear(self._sized, (worker.max_concurrent,), bit)
        _clear(self._resuming, _resumes(worker), bit)
        for model, kind in dict(_kinds(worker)).items():
            _clear(self._told[model], (kind,), bit)
            if not self._told[model]:
                del self._told[model]

    def any(self, want: Want) -> bool:
        return self._search(want) != 0

    def all(self, want: Want) -> list[str]:
        """Who meets `want`, in a reproducible order."""
        digits = bin(self._search(want))[:1:-1]  # without "0b", the lowest first
        return list(compress(self._ids, digits.encode().translate(DIGITS_TO_NUMBERS)))

    def capabilities(self, model: str) -> list[str]:
        """Some that workers of the model have, all of them where there are not very many."""
        serving, told = self._serving.get(model, 0), self._told.get(model, NOTHING_TOLD)
        tags = {tag for tag, workers in islice(self._tagged.items(), LOOKED_AT) if workers & serving}
        return sorted(tags.union(*(kind.capabilities for kind in islice(told, LOOKED_AT))))

    def longest_context(self, model: str) -> int:
        """In tokens, as far as workers of the model tell; 0: none does."""
        kinds = islice(self._told.get(model, NOTHING_TOLD), LOOKED_AT)
        return max((kind.context_length for kind in kinds), default=0)

    def _search(self, want: Want) -> int:
        found = self._serving.get(want.model, 0)
        for label in want.labels:
            found &= self._labelled.get(label, 0)
        if want.min_capacity > 1:  # nobody takes less than one
            found &= _union(bits for size, bits in self._sized.items() if size >= want.min_capacity)
        if want.resumes:
            found &= self._resuming.get(want.resumes, 0)
        if not (want.tags or want.min_context):
            return found
        told = self._told.get(want.model, NOTHING_TOLD)
        if want.min_context:
            found &= _union(bits for kind, bits in told.items() if kind.context_length >= want.min_context)
        for tag in want.tags:
            telling = _union(bits for kind, bits in told.items() if tag in kind.capabilities)
            found &= self._tagged.get(tag, 0) | telling
        return found


def _kinds(worker: WorkerRecord) -> Iterator[tuple[str, Kind]]:
    """What it tells of the models that it serves; of others it may tell what it likes."""
    facts = worker.facts
    for model in worker.models if facts else ():
        if model in facts:
            yield model, Kind(frozenset(facts[model].capabilities), facts[model].context_length)


def _resumes(worker: WorkerRecord) -> tuple[str, ...]:
    return (worker.type,) if worker.resumable else ()


def _union(numbers: Iterable[int]) -> int:
    found = 0
    for number in numbers:
        found |= number
    return found


def _set(index: dict[K, int], keys: Iterable[K], bit: int) -> None:
    for key in keys:
        index[key] = index.get(key, 0) | 1 << bit


def _clear(index: dict[K, int], keys: Iterable[K], bit: int) -> None:
    for key in set(keys):
        left = index[key] & ~(1 << bit)
        if left:
            index[key] = left
        else:
            del index[key]
