"""Vectors and scores of a simulated model, for OpenAI's clients. Pure.

A text's vector is a direction that follows from its hash: the same on every rack, and far from that of any
other text. A document's score is the share of the query's words that it has.
"""

from __future__ import annotations

from functools import partial
from hashlib import shake_128
from math import hypot
from struct import unpack
from typing import Any

from wrk_base import contract

from . import openai_replies as replies
from .openai_texts import ToEmbed, ToRank, read_embedding, read_rerank, refusal
from .sim_request import Asked, Given, Reply, Scripted

MAX_NUMBERS = 1_000_000  # of all vectors of one answer: some 0.2 s in which the rack says nothing else


def read_vectors(body: Any) -> Asked:
    """Task `embedding`."""
    found = read_embedding(body)
    return Asked("", contract.parse(Scripted, body, what="body").sim, partial(_tell_vectors, found))


def _tell_vectors(found: ToEmbed, given: Given) -> Reply:
    dimensions = found.dimensions or given.dimensions
    if dimensions * len(found.texts) > MAX_NUMBERS:
        raise refusal("input", f"{len(found.texts)} vectors of {dimensions}: {MAX_NUMBERS:,} numbers at most")
    usage = replies.input_usage(sum(len(text.split()) for text in found.texts))
    vectors = [vector(text, given.seed, dimensions) for text in found.texts]
    return Reply((), (), (), replies.embeddings(vectors, given.model, usage, found.encoding))


def vector(text: str, seed: int, dimensions: int) -> list[float]:
    """Numbers of which the squares add up to 1; fewer are the beginning of more, made longer."""
    bits = shake_128(f"{seed} {text}".encode(errors="surrogatepass")).digest(2 * dimensions)
    numbers = [number + 0.5 for number in unpack(f"<{dimensions}h", bits)]  # never all zero
    length = hypot(*numbers)
    return [number / length for number in numbers]


def read_ranking(body: Any) -> Asked:
    """Task `rerank`."""
    found = read_rerank(body)
    return Asked("", contract.parse(Scripted, body, what="body").sim, partial(_tell_ranking, found))


def _tell_ranking(found: ToRank, given: Given) -> Reply:
    words = len(found.query.split()) + sum(len(text.split()) for text in found.documents)
    scores = [shared(found.query, text) for text in found.documents]
    usage = replies.input_usage(words)
    ranking = replies.rerank(given.bits, scores, given.model, usage, documents=found.shown, top_n=found.top_n)
    return Reply((), (), (), ranking)


def shared(query: str, document: str) -> float:
    """The share of the query's words that the document has, whatever their case."""
    wanted = set(query.lower().split())
    return len(wanted & set(document.lower().split())) / len(wanted) if wanted else 0.0
