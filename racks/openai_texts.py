"""Bodies of `/v1/embeddings` and `/v1/rerank`, read. Pure.

For racks that turn texts into vectors or scores: the names are those of OpenAI's reference, and for ranking
those that Jina, Cohere and vLLM share. Fields that are not named here are not looked at. Whatever is wrong
ends in a `BadRequest` that names the field.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wrk_base import contract, errors

from .openai_replies import Encoding

MAX_TEXTS = 2048  # in one request, as with OpenAI; a client that embeds a corpus sends it in such shares

Positive = Annotated[int, Meta(ge=1)]


class EmbeddingBody(msgspec.Struct, frozen=True):
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=MAX_TEXTS)]
    dimensions: Positive | None = None
    encoding_format: Encoding | None = None


class ToEmbed(msgspec.Struct, frozen=True):
    """`dimensions` is None where the caller leaves it to the model."""

    texts: list[str]
    dimensions: int | None
    encoding: Encoding


class Document(msgspec.Struct, frozen=True):
    text: str


class RerankBody(msgspec.Struct, frozen=True):
    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_TEXTS)]
    top_n: Positive | None = None
    return_documents: bool = False


class ToRank(msgspec.Struct, frozen=True):
    """`top_n` is None for all of them; `shown` are the documents where the answer is to repeat them."""

    query: str
    documents: list[str]
    top_n: int | None
    shown: list[str] | None


def read_embedding(body: Any) -> ToEmbed:
    found = contract.parse(EmbeddingBody, body, what="body")
    given = [found.input] if isinstance(found.input, str) else found.input
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise refusal("input", "numbers of tokens are of another model's making: send the text")
    return ToEmbed(texts, found.dimensions, found.encoding_format or "float")


def read_rerank(body: Any) -> ToRank:
    found = contract.parse(RerankBody, body, what="body")
    documents = [given if isinstance(given, str) else given.text for given in found.documents]
    return ToRank(found.query, documents, found.top_n, documents if found.return_documents else None)


def refusal(field: str, why: str) -> errors.BadRequest:
    """Of a body that can be read and not be served."""
    return errors.BadRequest(f"body: {field}: {why}", data={"field": field})
