"""A causal language model of the transformers library, with its tokenizer: texts in, tokens out.

All of torch and transformers that generating needs is behind this and `lanes`; they are imported when a
model is loaded, never before. Used from one thread at a time, but for `read`, which uses the tokenizer only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from wrk_base import errors

from .drawing import draw
from .lanes import Lane, Network
from .proof import prove
from .scheduler import Answer
from .text_requests import Sampling, TextRequest

EXTRA = "pip install 'wrk-orchestrator[transformers]', or bin/setup --with transformers"
UNLIMITED = 2**30  # tokenizers without a limit of their own say some larger number
PROBE = "The quick brown fox jumps over the lazy dog, and then it sleeps."
PROBE_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Source:
    """What to load, and how."""

    model: str
    local: bool
    device: str  # cpu, or auto
    dtype: str
    threads: int
    most_tokens: int  # of prompt and answer, whatever the model can


class CausalModel:
    """Generates for many answers at once; what the scheduler calls `Model`."""

    def __init__(self, model: Any, tokenizer: Any, most_tokens: int) -> None:
        self.network = Network(model)
        self.device = str(model.device)
        self._tokenizer = tokenizer
        self.ends: Collection[int] = _ends(model, tokenizer)
        self.context = min(most_tokens, _context_length(model, tokenizer) or most_tokens)
        self._most_text = self.context * max(map(len, tokenizer.get_vocab()))
        self.chats = bool(tokenizer.chat_template)
        self.usual_sampling = _usual_sampling(model.generation_config)
        prove(self.network, self._probe())
        self.feeds_whole = not self.network.shares
        self._lanes: list[Lane[Answer]] = []
        self._caches: dict[Answer, Any] = {}
        self._newest: dict[Answer, int] = {}

    # --- the tokenizer

    def read(self, request: TextRequest) -> list[int]:
        """The tokens of a request's messages or prompt, with room for an answer; raises `BadRequest`."""
        if request.task == "chat":
            tokens = self._read_text(self._chat_text(request), request.field, special=False)
        elif isinstance(request.prompt, str):
            tokens = self._read_text(request.prompt, request.field, special=True)
        else:
            tokens = request.prompt
        if len(tokens) >= self.context:
            raise self._too_long(request.field, f"{len(tokens)} tokens")
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.network.vocabulary:
            known = f"this model's tokens are 0 to {self.network.vocabulary - 1}"
            raise errors.BadRequest(known, data={"field": request.field})
        beginning = self._tokenizer.bos_token_id
        if not tokens and beginning is None:
            raise errors.BadRequest("there is no token in it to go on from", data={"field": request.field})
        return tokens or [beginning]

    def decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _encode(self, text: str, *, special: bool) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return tokens

    def _read_text(self, text: str, field: str, *, special: bool) -> list[int]:
        """What would be too long if all its tokens were the longest is not split: that takes seconds a MB."""
        if len(text) > self._most_text:
            raise self._too_long(field, f"{len(text)} characters")
        return self._encode(text, special=special)

    def _too_long(self, field: str, size: str) -> errors.BadRequest:
        """In OpenAI's sense, so that clients which know its code shorten the prompt by themselves."""
        reason = f"{field}: {size}; at most {self.context - 1} tokens fit into the context before an answer"
        data = {"field": field, "code": "context_length_exceeded", "context": self.context}
        return errors.BadRequest(reason, data=data)

    def _chat_text(self, request: TextRequest) -> str:
        if not self.chats:
            reason = "this model has no chat template: it continues texts (completion, raw)"
            raise errors.BadRequest(reason, data={"field": "messages"})
        try:
            text: str = self._tokenizer.apply_chat_template(
                request.messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # whatever a template makes of messages it was not written for
            reason = f"messages: the model's chat template refuses them: {error}"
            raise errors.BadRequest(reason, data={"field": "messages"}) from error
        return text

    def _probe(self) -> list[int]:
        found = [token for token in self._encode(PROBE, special=True) if token < self.network.vocabulary]
        plain = [number % self.network.vocabulary for number in range(3, 3 + PROBE_TOKENS)]
        return (found + plain)[:PROBE_TOKENS]

    # --- generating

    def feed(self, answer: Answer, tokens: Sequence[int], *, last: bool) -> int | None:
        cache = self._caches.get(answer)
        if cache is None:
            cache = self._caches[answer] = self.network.new_cache()
        numbers = self.network([tokens], [answer.fed - len(tokens)], cache)
        return self._enter(answer, numbers[0]) if last else None

    def _enter(self, answer: Answer, numbers: Any) -> int | None:
        """From the prompt into a lane."""
        cache, length = self._caches.pop(answer), len(answer.prompt)
        if self.network.shares and self._lanes:
            self._lanes[0].join(answer, cache, length)
        else:
            self._lanes.append(Lane(self.network, answer, cache, length))
        return self._chosen(answer, numbers)

    def step(self) -> list[tuple[Answer, int | None]]:
        return [pair for lane in self._lanes for pair in self._step(lane)]

    def _step(self, lane: Lane[Answer]) -> list[tuple[Answer, int | None]]:
        numbers = lane.step([self._newest[answer] for answer in lane.keys])
        return [(answer, self._chosen(answer, row)) for answer, row in zip(lane.keys, numbers, strict=True)]

    def _chosen(self, answer: Answer, numbers: Any) -> int | None:
        token = draw(numbers, answer.sampling, answer.chance)
        self._newest[answer] = token or 0
        return token

    def forget(self, answers: Collection[Answer]) -> None:
        for lane in self._lanes:
            lane.leave(answers)
        self._lanes = [lane for lane in self._lanes if lane.keys]
        for answer in answers:
            self._caches.pop(answer, None)
            self._newest.pop(answer, None)


def load(source: Source) -> CausalModel:
    """Blocks, for minutes where it downloads; raises `StartError`."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise errors.StartError(f"{error}; install the extra: {EXTRA}") from error
    if source.threads:
        torch.set_num_threads(source.threads)
    logging.set_verbosity_error()
    if source.local:
        logging.disable_progress_bar()  # of reading the file: it would stand between the log's lines
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.model, local_files_only=source.local)
        model = AutoModelForCausalLM.from_pretrained(
            source.model, local_files_only=source.local, dtype=source.dtype
        )
        return CausalModel(model.eval().to(_device(source.device)), tokenizer, source.most_tokens)
    except errors.StartError:
        raise
    except Exception as error:  # the loaders of many formats raise all kinds of things
        raise errors.StartError(f"cannot load the model {source.model}: {error}") from error


def _device(wanted: str) -> Any:
    import torch

    return (torch.accelerator.current_accelerator() if wanted == "auto" else None) or "cpu"


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ends of its author's settings, which know of turns of a chat, and the tokenizer's own."""
    told = model.generation_config.eos_token_id
    ends = told if isinstance(told, list) else [told]
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None)


def _context_length(model: Any, tokenizer: Any) -> int:
    """Tokens of prompt and answer together; 0 where neither model nor tokenizer names a limit."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not most and tokenizer.model_max_length < UNLIMITED:
        most = tokenizer.model_max_length
    return int(most or 0)


def _usual_sampling(config: Any) -> Sampling:
    """What its author advises for drawing; OpenAI's values where there is no advice."""
    if not config.do_sample:
        return Sampling()
    return Sampling(_or(config.temperature, 1.0), _or(config.top_p, 1.0), _or(config.top_k, 0))


def _or(value: Any, usual: Any) -> Any:
    return usual if value is None else value
