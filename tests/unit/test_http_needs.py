"""What a request of OpenAI's API needs: hints of its body, and the header that requires."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base import errors
from wrk_base.contract import Requirements
from wrk_orchestrator.http.needs import hints, required

TEXT = [{"role": "user", "content": "hello"}]
CHAT_IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]}]
RESPONSE_IMAGE = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:..."}]}]
TOOL = [{"type": "function", "function": {"name": "image_url"}}]


def hinted(task: str, said: Any, tools: Any = None) -> tuple[str, ...]:
    raw = [
        msgspec.Raw(msgspec.json.encode(value)) if value is not None else msgspec.Raw()
        for value in (said, tools)
    ]
    return hints(task, *raw)


@pytest.mark.parametrize(
    ("task", "said", "tools", "found"),
    [
        ("chat", TEXT, None, ()),
        ("chat", None, None, ()),
        ("chat", CHAT_IMAGE, None, ("vision",)),
        ("response", RESPONSE_IMAGE, None, ("vision",)),
        ("chat", TEXT, TOOL, ("tools",)),
        ("chat", CHAT_IMAGE, TOOL, ("vision", "tools")),
        ("chat", TEXT, [], ()),
        ("response", "a text", None, ()),
        ("embedding", ["a text"], None, ("embeddings",)),
        ("rerank", None, None, ()),
    ],
)
def test_a_body_hints_at(task: str, said: Any, tools: Any, found: tuple[str, ...]) -> None:
    assert hinted(task, said, tools) == found


def test_tools_are_none_where_there_is_none_however_that_is_written() -> None:
    for tools in (b"[]", b"[ \n]", b"null"):
        assert hints("chat", msgspec.Raw(b"[]"), msgspec.Raw(tools)) == ()
    assert hints("chat", msgspec.Raw(b"[]"), msgspec.Raw(b"[\n {}]")) == ("tools",)


@given(st.text())
def test_no_text_is_taken_for_an_image(text: str) -> None:
    for content in (text, f'an "image_url" {text}', f'{text}{{"type": "input_image"}}'):
        assert hinted("chat", [{"role": "user", "content": content}]) == ()


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        (b"vision", Requirements(["vision"])),
        (b"vision, tools", Requirements(["vision", "tools"])),
        (b"context=32768", Requirements(min_context=32_768)),
        (
            b" vision ,context = 8192,capacity=4, label:gpu=a100,label:site= ",
            Requirements(["vision"], 4, {"gpu": "a100", "site": ""}, 8192),
        ),
        (b"label:a=b=c", Requirements(labels={"a": "b=c"})),
        ("größe".encode(), Requirements(["größe"])),
    ],
)
def test_a_header_requires(header: bytes, meant: Requirements) -> None:
    assert required(header) == meant


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"", "'' is not understood"),
        (b"vision,,tools", "'' is not understood"),
        (b"context", "'context' is not understood"),
        (b"context=long", "'context=long' is not understood"),
        (b"context=-1", "'context=-1' is not understood"),
        (b"context=99999999999", "is not understood"),
        (b"context=9999999999", "minContext"),
        (b"gpu=a100", "'gpu=a100' is not understood"),
        (b"label:gpu", "'label:gpu' is not understood"),
        (b"label:=a", "length >= 1"),
        (b"context=1,context=2", "context is there twice"),
        (b"label:a=1,label:a=1", "label:a is there twice"),
        (b"=1", "'=1' is not understood"),
        (b"\xff", "not UTF-8"),
        (b"x" * 257, "length <= 256"),
        (b",".join(b"c%d" % number for number in range(101)), "length <= 100"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_what_is_allowed(header: bytes, said: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        required(header)
    assert said in caught.value.message
    assert "allowed, with commas between, are a capability, context=TOKENS" in caught.value.message
    assert caught.value.data == {"field": "x-wrk-requires"}


@given(st.binary(max_size=60))
def test_any_header_is_understood_or_refused(header: bytes) -> None:
    with suppress(errors.BadRequest):
        required(header)
