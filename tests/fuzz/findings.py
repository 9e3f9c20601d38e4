"""Where findings are written: the shortest input of each kind, and beside it what it did, for people."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

FINDINGS = Path(__file__).resolve().parent / "findings"


class Book:
    """The findings of one target. A kind is an error and the place where it arose."""

    def __init__(self, target: str, shown: Callable[[bytes], str]) -> None:
        self._target, self._shown = target, shown
        self._lengths: dict[str, int] = {}
        FINDINGS.mkdir(exist_ok=True)

    def note(self, data: bytes, error: BaseException) -> None:
        kind = _kind(error)
        if len(data) >= self._lengths.get(kind, sys.maxsize):
            return
        self._lengths[kind] = len(data)
        path = FINDINGS / f"{self._target}-{kind}.bin"
        path.write_bytes(data)
        words = "".join(traceback.format_exception(error))
        path.with_suffix(".txt").write_text(f"{self._shown(data)}\n{words}")


def _kind(error: BaseException) -> str:
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    return hashlib.sha256(repr((type(error).__name__, places[-3:])).encode()).hexdigest()[:8]
