"""What OpenAI's clients read of `/v1/responses`: the whole response, and the events of a stream.

A stream is `opening`, `piece` as often as there is text, `ending`. Each event is a map with its `type` and a
number in its order; `event` makes of it what stands in a stream of server-sent events, where its type is
said twice. One answer has one message of text. The invariant: what `ending` says is whole, so that a reader
who missed everything before it has missed nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .openai_replies import ID_BITS, Finish, Map

STATUS = {"stop": "completed", "length": "incomplete"}


def usage(input_tokens: int, output_tokens: int, cached: int = 0) -> Map:
    """Counts in the names of this endpoint, which differ from those of the others."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def event(told: Map) -> bytes:
    """An event as it stands in a stream."""
    return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), msgspec.json.encode(told))


class Response:
    """The objects of one answer to `/v1/responses`. `asked` are fields of the request that it repeats."""

    def __init__(self, bits: int, created: int, model: str, **asked: Any) -> None:
        digits = f"{bits:0{ID_BITS // 4}x}"
        self.id, self._item_id = f"resp_{digits}", f"msg_{digits}"
        self._numbers = 0
        self._place: Map = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        self._head: Map = {
            "id": self.id,
            "object": "response",
            "created_at": created,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
            **asked,
        }

    def opening(self) -> list[Map]:
        return [
            self._event("response.created", response=self._head),
            self._event("response.in_progress", response=self._head),
            self._event("response.output_item.added", output_index=0, item=self._item([], "in_progress")),
            self._event("response.content_part.added", **self._place, part=_part("")),
        ]

    def piece(self, text: str) -> Map:
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def ending(self, text: str, finish: Finish, usage: Map) -> list[Map]:
        status, part = STATUS[finish], _part(text)
        return [
            self._event("response.output_text.done", **self._place, text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=part),
            self._event("response.output_item.done", output_index=0, item=self._item([part], status)),
            self._event(f"response.{status}", response=self.whole(text, finish, usage)),
        ]

    def whole(self, text: str, finish: Finish, usage: Map) -> Map:
        status = STATUS[finish]
        return {
            **self._head,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if finish == "length" else None,
            "output": [self._item([_part(text)], status)],
            "usage": usage,
        }

    def _event(self, kind: str, **facts: Any) -> Map:
        number, self._numbers = self._numbers, self._numbers + 1
        return {"type": kind, "sequence_number": number, **facts}

    def _item(self, content: list[Map], status: str) -> Map:
        return {
            "type": "message",
            "id": self._item_id,
            "status": status,
            "role": "assistant",
            "content": content,
        }


def _part(text: str) -> Map:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
