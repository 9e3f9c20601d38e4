"""Real networks of the transformers library, tiny and with random weights, generating in company.

What one answer gets must not depend on who is generated beside it. Needs torch and transformers; where they
are missing the tests are skipped, and the summary of the run says what to install.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest

from racks.causal_model import CausalModel, Source, load
from racks.drawing import draw
from racks.scheduler import Answer, Scheduler
from racks.text_requests import Defaults, Sampling, read_request
from racks.token_text import BROKEN, TokenText
from tests.fakes.tiny_model import CONTEXT, make_model, make_network, make_tokenizer
from wrk_base import errors

MISSING = [name for name in ("torch", "transformers") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"NO REAL NETWORK: {', '.join(MISSING)} missing; bin/setup --with transformers installs it",
)

KINDS = ["llama", "gpt2", "mistral", "mamba"]
PROMPTS = [
    "the cat",
    "one two three four five six seven eight nine ten " * 4,
    "日本語",
    "a kitten naps by the",
]
LENGTH = 24
MOST = 10_000


@cache
def model_of(kind: str) -> CausalModel:
    tokenizer = make_tokenizer()
    return CausalModel(make_network(len(tokenizer), kind), tokenizer, MOST)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Such small tensors are no work for several."""
    if not MISSING:
        import torch

        torch.set_num_threads(1)


def ask(model: CausalModel, prompt: str, max_tokens: int = LENGTH, **fields: Any) -> Answer:
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **fields}
    request = read_request("raw", body, Defaults(CONTEXT, model.usual_sampling))
    tokens = model.read(request)
    text = TokenText(model.decode, tokens, request.stops)
    return Answer(tokens, request.max_tokens, request.sampling, Random(request.sampling.seed), text)


def generate(model: CausalModel, answers: Sequence[Answer], every: int = 3) -> list[str]:
    """The texts of answers of which one more arrives every few steps."""
    scheduler = Scheduler(model, max_rows=8, max_cached=8 * CONTEXT)
    texts = dict.fromkeys(answers, "")
    waiting = list(answers)
    steps = 0
    while waiting or scheduler.busy:
        if waiting and not steps % every:
            scheduler.add(waiting.pop(0))
        steps += 1
        for update in scheduler.step():
            assert update.error is None
            texts[update.answer] += update.text
    return list(texts.values())


@pytest.mark.parametrize("kind", KINDS)
def test_in_company_an_answer_is_the_one_that_it_would_be_alone(kind: str) -> None:
    """Short and long ones that come and go, so that rows are padded, joined and cut; greedy and drawn."""
    model = model_of(kind)
    wishes: list[dict[str, Any]] = [
        {"prompt": prompt, "max_tokens": LENGTH - 3 * index} for index, prompt in enumerate(PROMPTS)
    ]
    wishes += [{"prompt": "the dog", "temperature": 1.2, "top_p": 0.9, "seed": 5}]
    together = generate(model, [ask(model, **wish) for wish in wishes])
    alone = [generate(model, [ask(model, **wish)])[0] for wish in wishes]
    assert together == alone
    assert len(set(alone)) == len(alone)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_what_the_library_itself_generates(kind: str) -> None:
    import torch

    model = model_of(kind)
    answer = ask(model, PROMPTS[1])
    (text,) = generate(model, [answer])
    tokens = torch.tensor([answer.prompt])
    network = model.network.model
    made = network.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=LENGTH, do_sample=False, pad_token_id=0
    )[0].tolist()
    prompt, whole = model.decode(answer.prompt), model.decode(made)
    assert (prompt + text).rstrip(BROKEN) == whole.rstrip(BROKEN)


def test_models_with_keys_and_values_share_their_steps_and_others_take_turns() -> None:
    assert [model_of(kind).network.shares for kind in KINDS] == [True, True, True, False]


def test_a_model_that_is_wrong_in_company_lets_its_answers_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one that takes its positions from where a token stands, padding included."""
    tokenizer = make_tokenizer()
    network = make_network(len(tokenizer))
    forward = type(network).forward

    @wraps(forward)
    def without_positions(self: Any, input_ids: Any, **given: Any) -> Any:
        return forward(self, input_ids=input_ids, **{**given, "position_ids": None})

    monkeypatch.setattr(type(network), "forward", without_positions)
    assert not CausalModel(network, tokenizer, MOST).network.shares


def test_a_mistake_that_shows_in_the_second_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    network = make_network(len(tokenizer))
    forward = type(network).forward
    steps: Counter[int] = Counter()
    caches: list[Any] = []  # kept, so that no two of them have the same id

    @wraps(forward)
    def late(self: Any, input_ids: Any, past_key_values: Any = None, **given: Any) -> Any:
        if past_key_values is not None and input_ids.shape[1] == 1:
            caches.append(past_key_values)
            steps[id(past_key_values)] += 1
            if steps[id(past_key_values)] == 2:
                input_ids = input_ids * 0
        return forward(self, input_ids=input_ids, past_key_values=past_key_values, **given)

    monkeypatch.setattr(type(network), "forward", late)
    with pytest.raises(errors.StartError, match="it cannot be served"):
        CausalModel(network, tokenizer, MOST)


def test_a_model_that_is_wrong_with_its_cache_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    network = make_network(len(tokenizer))
    forward = type(network).forward

    @wraps(forward)
    def forgetful(self: Any, input_ids: Any, past_key_values: Any = None, **given: Any) -> Any:
        return forward(self, input_ids=input_ids, **{**given, "attention_mask": None, "position_ids": None})

    monkeypatch.setattr(type(network), "forward", forgetful)
    with pytest.raises(errors.StartError, match="it cannot be served"):
        CausalModel(network, tokenizer, MOST)


def test_a_seed_gives_the_same_answer_again_and_another_seed_another() -> None:
    model = model_of("llama")
    wish = {"prompt": "the cat", "temperature": 1.0}
    first, again, other = (generate(model, [ask(model, **wish, seed=seed)]) for seed in (1, 1, 2))
    assert first == again != other


def test_the_pieces_are_the_text_of_all_tokens() -> None:
    model = model_of("llama")
    for seed in range(20):
        answer = ask(model, "größer", temperature=2.0, seed=seed)
        answer.text = text = Noted(model, answer.prompt)
        (shown,) = generate(model, [answer])
        whole = model.decode([*answer.prompt, *text.tokens])
        assert ("größer" + shown).rstrip(BROKEN) == whole.rstrip(BROKEN)


class Noted(TokenText):
    """Notes the tokens that it turns into text."""

    def __init__(self, model: CausalModel, prompt: Sequence[int]) -> None:
        super().__init__(model.decode, prompt, ())
        self.tokens: list[int] = []

    def push(self, token: int) -> str:
        self.tokens.append(token)
        return super().push(token)


# --- what is read


def test_a_chat_is_what_the_template_makes_of_it() -> None:
    model = model_of("llama")
    messages = [{"role": "developer", "content": "be short"}, {"role": "user", "content": "the cat"}]
    tokens = model.read(read_request("chat", {"messages": messages}, Defaults(10)))
    assert model._tokenizer.decode(tokens) == "<|system|>be short\n<|user|>the cat\n<|assistant|>"


def test_what_the_template_refuses_is_the_callers_mistake() -> None:
    request = read_request("chat", {"messages": [{"role": "parrot", "content": "x"}]}, Defaults(10))
    with pytest.raises(errors.BadRequest, match="no such role: parrot") as refused:
        model_of("llama").read(request)
    assert refused.value.data == {"field": "messages"}


def test_without_a_template_there_is_no_chat() -> None:
    tokenizer = make_tokenizer(template=False)
    model = CausalModel(make_network(len(tokenizer)), tokenizer, MOST)
    assert not model.chats
    with pytest.raises(errors.BadRequest, match="no chat template"):
        model.read(read_request("chat", {"messages": [{"role": "user", "content": "x"}]}, Defaults(10)))


@pytest.mark.parametrize("tokens", [[-1], [5, 10_000]])
def test_tokens_that_the_model_has_not_are_refused(tokens: list[int]) -> None:
    with pytest.raises(errors.BadRequest, match="this model's tokens are 0 to"):
        model_of("llama").read(read_request("completion", {"prompt": tokens}, Defaults(10)))


def test_nothing_to_go_on_from_is_the_beginning_of_a_text() -> None:
    request = read_request("completion", {"prompt": ""}, Defaults(10))
    assert model_of("llama").read(request) == [0]
    tokenizer = make_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(errors.BadRequest, match="no token in it"):
        CausalModel(make_network(len(tokenizer)), tokenizer, MOST).read(request)


@pytest.mark.parametrize(
    ("prompt", "size"),
    [([5] * CONTEXT, f"{CONTEXT} tokens"), ("cat " * CONTEXT, "tokens"), ("x" * 100_000, "100000 char")],
)
def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(prompt: Any, size: str) -> None:
    """One that could not fit however it is split is not even split."""
    model = model_of("llama")
    with pytest.raises(errors.BadRequest, match=size) as refused:
        model.read(read_request("completion", {"prompt": prompt}, Defaults(10)))
    assert refused.value.data == {"field": "prompt", "code": "context_length_exceeded", "context": CONTEXT}
    assert model.read(read_request("completion", {"prompt": [5] * (CONTEXT - 1)}, Defaults(10)))


def test_a_context_may_be_smaller_than_what_the_model_can() -> None:
    tokenizer = make_tokenizer()
    assert CausalModel(make_network(len(tokenizer)), tokenizer, 64).context == 64
    assert model_of("mamba").context == MOST  # it names no limit itself


def test_what_a_folder_says_of_its_model_is_read_from_it(tmp_path: Path) -> None:
    make_model(
        tmp_path, generation={"do_sample": True, "temperature": 0.5, "top_k": 7, "eos_token_id": [0, 3]}
    )
    model = load(Source(str(tmp_path), True, "cpu", "auto", 0, MOST))
    assert (model.context, model.chats, sorted(model.ends), model.device) == (CONTEXT, True, [0, 3], "cpu")
    assert model.usual_sampling == Sampling(0.5, 1.0, 7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_numbers_of_16_bits_do(tmp_path: Path, dtype: str) -> None:
    make_model(tmp_path)
    model = load(Source(str(tmp_path), True, "cpu", dtype, 0, MOST))
    assert model.network.shares
    assert generate(model, [ask(model, "the cat")])[0]


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.StartError, match=f"cannot load the model {tmp_path}"):
        load(Source(str(tmp_path), True, "cpu", "auto", 0, MOST))


# --- the choice of a token


def row(*numbers: float) -> Any:
    import torch

    return torch.tensor(numbers)


def drawn(numbers: Any, sampling: Sampling, times: int = 500) -> set[int | None]:
    chance = Random(1)
    return {draw(numbers, sampling, chance) for _ in range(times)}


def test_temperature_0_takes_the_likeliest() -> None:
    assert drawn(row(1, 3, 2), Sampling(temperature=0)) == {1}


def test_nearly_0_is_no_overflow() -> None:
    assert drawn(row(1e4, 3e4, 2e4), Sampling(temperature=1e-306)) == {1}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    chance = Random(1)
    numbers = row(*(math.log(share) for share in (0.5, 0.3, 0.2)))
    found = [draw(numbers, Sampling(), chance) for _ in range(5000)]
    for token, share in enumerate((0.5, 0.3, 0.2)):
        assert found.count(token) / len(found) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        (Sampling(), {0, 1, 2, 3}),
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_k=9), {0, 1, 2, 3}),
        (Sampling(top_p=0), {3}),
        (Sampling(top_p=0.39), {3}),
        (Sampling(top_p=0.41), {1, 3}),
        (Sampling(top_p=0.71), {0, 1, 3}),
        (Sampling(top_k=3, top_p=0.5), {1, 3}),
        (Sampling(temperature=0.01), {3}),
    ],
)
def test_only_the_likeliest_are_left(sampling: Sampling, left: set[int]) -> None:
    numbers = row(*(math.log(share) for share in (0.2, 0.3, 0.1, 0.4)))
    assert drawn(numbers, sampling) == left


def test_what_cannot_be_is_never_drawn() -> None:
    assert drawn(row(-math.inf, 1, -math.inf, 1, -math.inf), Sampling(temperature=2)) == {1, 3}


@pytest.mark.parametrize("numbers", [[math.nan, 1], [math.inf, 1], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0, 1])
def test_where_the_numbers_are_none_nothing_is_chosen(numbers: list[float], temperature: float) -> None:
    assert drawn(row(*numbers), Sampling(temperature=temperature), times=1) == {None}
