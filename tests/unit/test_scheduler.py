"""Which answers are generated together: who joins when, who makes room, and that each is told its end."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racks.openai_replies import Finish
from racks.scheduler import FEED_TOKENS, Answer, Scheduler, Update
from tests.fakes.parrot import NOTHING, POISON, Parrot, question
from wrk_base import errors


@dataclass
class Heard:
    """What was told of one answer."""

    text: str = ""
    ends: list[Finish | Exception] = field(default_factory=list)


class Story:
    """A scheduler with a parrot, and what it has told of each answer."""

    def __init__(self, *, max_rows: int = 4, max_cached: int = 10_000, feeds_whole: bool = False) -> None:
        self.parrot = Parrot(feeds_whole=feeds_whole)
        self.scheduler = Scheduler(self.parrot, max_rows=max_rows, max_cached=max_cached)
        self._heard: dict[Answer, Heard] = {}

    def ask(self, text: str | bytes, max_tokens: int = 100, stops: tuple[str, ...] = ()) -> Answer:
        answer = question(text, max_tokens, stops)
        self._heard[answer] = Heard()
        self.scheduler.add(answer)
        return answer

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.hear(self.scheduler.step())

    def hear(self, updates: list[Update]) -> None:
        for update in updates:
            heard = self._heard[update.answer]
            assert not heard.ends, "told more after the end"
            heard.text += update.text
            if update.ended:
                heard.ends.append(update.finish or update.error or RuntimeError())

    def finish(self) -> None:
        while self.scheduler.busy:
            self.step()

    def of(self, answer: Answer) -> tuple[str, Finish]:
        """The text of an answer and why it ended."""
        (end,) = self._heard[answer].ends
        assert isinstance(end, str)
        return self._heard[answer].text, end

    def failure(self, answer: Answer) -> Exception:
        (end,) = self._heard[answer].ends
        assert isinstance(end, Exception)
        return end

    def text(self, answer: Answer) -> str:
        return self._heard[answer].text


def test_an_answer_ends_where_the_model_ends_it() -> None:
    story = Story()
    answer = story.ask("abc")
    story.finish()
    assert story.of(answer) == ("cba", "stop")
    assert (answer.made, story.parrot.held) == (3, set())


def test_an_answer_ends_at_its_length() -> None:
    story = Story()
    two, three = story.ask("abc", max_tokens=2), story.ask("abc", max_tokens=3)
    story.finish()
    assert story.of(two) == ("cb", "length")
    assert story.of(three) == ("cba", "length")


def test_an_answer_ends_before_its_stop_string() -> None:
    story = Story()
    answer = story.ask("onmlkji", stops=("kl",))
    story.finish()
    assert story.of(answer) == ("ij", "stop")
    assert answer.made == 4  # those of the stop string were generated, too


def test_text_that_waited_for_a_stop_string_comes_at_the_end() -> None:
    story = Story()
    by_end, by_length = story.ask("kji", stops=("kl",)), story.ask("kji", max_tokens=3, stops=("kl",))
    story.finish()
    assert (story.of(by_end), story.of(by_length)) == (("ijk", "stop"), ("ijk", "length"))


def test_who_arrives_joins_at_the_next_step() -> None:
    story = Story()
    first = story.ask("abcdef")
    story.step(2)
    second = story.ask("xyz")
    story.step()
    assert (story.text(first), story.text(second)) == ("fedc", "zy")
    assert story.parrot.rows == [1, 1, 2]


def test_who_ends_makes_room_for_who_waits_in_the_order_of_arrival() -> None:
    story = Story(max_rows=2)
    answers = [story.ask("ab"), story.ask("abcd"), story.ask("abc"), story.ask("abc")]
    story.step(2)
    assert [story.text(answer) for answer in answers] == ["ba", "dcb", "", ""]
    story.step()
    assert [story.text(answer) for answer in answers] == ["ba", "dcba", "cb", ""]
    story.finish()
    assert max(story.parrot.rows) == 2
    assert [story.of(answer)[0] for answer in answers] == ["ba", "dcba", "cba", "cba"]


@pytest.mark.parametrize(
    ("sizes", "inside"),
    [([20, 20, 20, 20], 3), ([30, 31], 1), ([40, 6], 1), ([6, 40], 1), ([6, 6, 20], 3)],
)
def test_rows_are_counted_as_long_as_the_longest_of_them(sizes: list[int], inside: int) -> None:
    story = Story(max_cached=60)
    for size in sizes:
        story.ask("a" * (size // 2), max_tokens=size - size // 2)
    story.step()
    assert len(story.parrot.held) == inside


def test_one_that_is_as_long_as_all_together_may_be_is_let_in_alone() -> None:
    story = Story(max_cached=30)
    answers = [story.ask("a" * 10, max_tokens=20), story.ask("b", max_tokens=1)]
    story.finish()
    assert [story.of(answer)[0] for answer in answers] == ["a" * 10, "b"]


def test_a_long_prompt_is_read_in_pieces_while_others_go_on() -> None:
    story = Story()
    short = story.ask("abcdefgh")
    story.step()
    long = story.ask(b"x" * (2 * FEED_TOKENS + 5))
    story.step(2)
    assert (story.text(short), story.text(long)) == ("hgfe", "")
    story.step()
    assert (story.text(short), story.text(long)) == ("hgfed", "xx")
    assert story.parrot.reads == [8, FEED_TOKENS, FEED_TOKENS, 5]


def test_short_prompts_are_read_many_in_a_step() -> None:
    story = Story(max_rows=10)
    for _ in range(10):
        story.ask("abc")
    story.step()
    assert story.parrot.rows == [10]


def test_a_model_that_reads_whole_prompts_gets_them_whole() -> None:
    story = Story(feeds_whole=True)
    story.ask(b"x" * (2 * FEED_TOKENS + 5))
    story.step()
    assert story.parrot.reads == [2 * FEED_TOKENS + 5]


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_who_is_cancelled_is_gone_before_the_next_step(steps: int) -> None:
    """While it waits, while its prompt is read, while it is generated."""
    story = Story()
    answer, other = story.ask(b"x" * (2 * FEED_TOKENS + 5)), story.ask("abcdefgh")
    story.step(steps)
    answer.cancelled = True
    said = story.text(answer)
    story.step()
    assert (story.text(answer), story.parrot.held) == (said, {other})
    story.finish()
    assert story.of(other) == ("hgfedcba", "stop")


def test_a_prompt_that_the_model_cannot_read_hurts_nobody_else() -> None:
    story = Story()
    good, bad, after = story.ask("abc"), story.ask(bytes([POISON])), story.ask("xyz")
    story.finish()
    assert isinstance(story.failure(bad), ValueError)
    assert [story.of(answer)[0] for answer in (good, after)] == ["cba", "zyx"]


def test_a_row_without_numbers_fails_alone() -> None:
    story = Story()
    good, bad = story.ask("abc"), story.ask(bytes([97, NOTHING, 98]))
    story.finish()
    assert isinstance(story.failure(bad), errors.Internal)
    assert story.of(good) == ("cba", "stop")


def test_a_step_that_fails_ends_those_that_took_part_and_work_goes_on() -> None:
    story = Story(max_rows=2)
    first, second, waiting = story.ask("abc"), story.ask("abc"), story.ask("xyz")
    story.parrot.breaks = MemoryError("no room")
    story.finish()
    assert [str(story.failure(answer)) for answer in (first, second)] == ["no room"] * 2
    assert story.of(waiting) == ("zyx", "stop")


def test_abandoned_everybody_hears_why() -> None:
    story = Story(max_rows=1)
    answers = [story.ask("abc"), story.ask("abc")]
    story.step()
    story.hear(story.scheduler.abandon(errors.Unavailable("over")))
    assert [str(story.failure(answer)) for answer in answers] == ["over"] * 2
    assert not story.scheduler.busy
    assert story.parrot.held == set()


ASKED = st.tuples(
    st.binary(min_size=1, max_size=20), st.integers(1, 12), st.sampled_from(["go on", "cancel", "break"])
)


@given(st.lists(ASKED, max_size=20), st.integers(1, 4), st.integers(40, 200), st.booleans())
def test_whatever_happens_each_is_told_one_end_and_nothing_is_kept(
    asked: list[tuple[bytes, int, str]], max_rows: int, max_cached: int, whole: bool
) -> None:
    story = Story(max_rows=max_rows, max_cached=max_cached, feeds_whole=whole)
    answers = []
    for text, max_tokens, event in asked:
        answers.append(story.ask(text, max_tokens))
        if event == "cancel":
            answers[len(answers) // 2].cancelled = True
        if event == "break":
            story.parrot.breaks = RuntimeError("broken")
        story.step()
        inside = [answer.most_cached for answer in story.parrot.held]
        assert len(inside) <= max_rows
        assert len(inside) < 2 or max(inside) * len(inside) <= max_cached
    story.finish()
    assert story.parrot.held == set()
    for answer in answers:
        assert len(story._heard[answer].ends) == 1 or answer.cancelled
