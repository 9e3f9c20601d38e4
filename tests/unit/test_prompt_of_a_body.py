"""The prompt that strategies compare is a part of a body as it came, cut out and not decoded."""

from __future__ import annotations

import msgspec

from wrk_orchestrator.affinity import Affinity
from wrk_orchestrator.http.openai import Sent


def test_a_prompt_that_was_cut_out_of_a_body_has_the_beginnings_of_its_bytes() -> None:
    text = msgspec.json.encode([{"role": "user", "content": "hello " * 100}])
    sent = msgspec.json.decode(b'{"model": "m", "messages": %b}' % text, type=Sent)
    assert isinstance(sent.messages, msgspec.Raw)
    beginnings = Affinity(prompt=sent.messages).beginnings
    assert len(beginnings) > 3
    assert beginnings == Affinity(prompt=text).beginnings
