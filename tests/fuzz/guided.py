"""One target under atheris, which finds inputs that reach code that none reached before.

Why atheris: Google keeps it and OSS-Fuzz runs on it, its wheels carry libFuzzer for every Python that
this project names, it measures only the modules that are asked for, and what hangs, takes all memory or
crashes in C is caught as well. Not hypofuzz: it steers hypothesis tests at the price of a hypothesis
example for each input, and brings a web server, trio and black. Not pythonfuzz: its last release is
of 2019. atheris has wheels for Linux on x86_64 alone (those for macOS ended with 2.2, which cannot
instrument loops on Python 3.11); bin/test says so elsewhere.

A finding is any exception that comes out of a target. It is written down and the search goes on. What
reached new code is kept in corpus/, where the next run begins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from tests.fuzz.findings import FINDINGS, Book

CORPUS = Path(__file__).resolve().parent / "corpus"
MAX_INPUT = 8192  # bytes: above the limit of greetings, and still many inputs a second
HANG = 10  # seconds for one input: ten thousand times what it takes
MEMORY = 2048  # MB


def main(name: str, seconds: str) -> None:
    import atheris  # type: ignore[import-untyped]  # an extra, and only here

    # Not at the top: what was imported before is not measured.
    with atheris.instrument_imports(include=["wrk_base"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    book = Book(name, target.shown)
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except Exception as error:
            book.note(data, error)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        return target.mutated(data, max_size, Random(seed), atheris.Mutate)

    options = {
        "max_total_time": seconds,
        "max_len": MAX_INPUT,
        "timeout": HANG,
        "rss_limit_mb": MEMORY,
        "artifact_prefix": f"{FINDINGS}/{name}-",
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], run, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
