"""Text out of tokens, one at a time: whole characters, leading spaces, and nothing of a stop string.

Two small tokenizers stand for all: one whose tokens are bytes, as GPT-2's may be, and one whose words
carry a mark for a leading space that decoding drops at the beginning, as Llama 2's do.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from racks.token_text import BROKEN, MOST_HELD, Detokenizer, StopStrings, TokenText

WORDS = ["▁the", "▁cat", "s", "▁", "▁sat", "."]


def of_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def of_words(tokens: list[int]) -> str:
    return "".join(WORDS[token] for token in tokens).replace("▁", " ").removeprefix(" ")


def pieces(tokens: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    made = Detokenizer(of_bytes, prompt)
    return [*(made.push(token) for token in tokens), made.flush()]


@given(st.text(st.characters(codec="utf-8", exclude_characters=BROKEN)), st.text())
def test_the_pieces_of_any_text_are_the_text(text: str, prompt: str) -> None:
    made = pieces(text.encode(), prompt.encode())
    assert "".join(made) == text
    assert not any(BROKEN in piece for piece in made)


@given(st.binary(), st.binary())
def test_bytes_that_are_no_text_never_stop_the_flow(junk: bytes, prompt: bytes) -> None:
    made = Detokenizer(of_bytes, prompt)
    for token in junk:
        made.push(token)
    assert len(made._tokens) <= 2 * MOST_HELD


def test_a_character_waits_for_its_last_token() -> None:
    assert pieces("é!".encode()) == ["", "é", "!", ""]
    assert pieces("🦖".encode()) == ["", "", "", "🦖", ""]


def test_a_character_that_is_never_finished_is_left_out() -> None:
    assert pieces("a🦖".encode()[:-1]) == ["a", "", "", "", ""]


def test_what_is_no_text_at_all_is_shown_in_the_end() -> None:
    made = pieces([0xFF] * (MOST_HELD + 1) + list(b"a"))
    assert made[:MOST_HELD] == [""] * (MOST_HELD - 1) + [BROKEN * MOST_HELD]
    assert made[-2:] == [BROKEN + "a", ""]


def test_a_leading_space_is_that_of_the_whole_text() -> None:
    prompt, answer = [0, 1], [2, 4, 3, 4, 5]
    made = Detokenizer(of_words, prompt)
    shown = [made.push(token) for token in answer]
    assert shown == ["s", " sat", " ", " sat", "."]
    assert of_words(prompt) + "".join(shown) == of_words(prompt + answer)


def test_without_a_prompt_the_first_word_has_no_space() -> None:
    made = Detokenizer(of_words, [])
    assert [made.push(token) for token in [0, 1]] == ["the", " cat"]


def test_a_prompt_that_ends_amid_long_characters_does_not_spoil_the_first_token() -> None:
    """Decoding starts a few tokens before the answer: not within a character."""
    seen: list[list[int]] = []

    def decode(tokens: list[int]) -> str:
        seen.append(tokens.copy())
        return of_bytes(tokens)

    Detokenizer(decode, "🦖🦖".encode())
    assert of_bytes(seen[-1]) == "🦖🦖"


# --- stop strings


def through(stops: list[str], parts: Sequence[str]) -> tuple[list[str], bool]:
    made = StopStrings(stops)
    shown = []
    for part in parts:
        shown.append(made.push(part))
        if made.stopped:
            return shown, True
    return [*shown, made.flush()], False


def test_what_may_become_a_stop_string_waits() -> None:
    assert through(["END"], ["a", "E", "N", "x", "b"]) == (["a", "", "", "ENx", "b", ""], False)
    assert through(["END"], ["a", "E", "N", "D", "b"]) == (["a", "", "", ""], True)
    assert through(["END"], ["E", "E", "ND"]) == (["", "E", ""], True)


def test_what_waited_is_shown_when_no_more_comes() -> None:
    assert through(["END"], ["a EN"]) == (["a ", "EN"], False)


def test_of_several_the_one_that_ends_first_counts_however_the_text_is_cut() -> None:
    stops = ["abcd", "bc"]
    assert through(stops, ["xabcd"]) == (["xa"], True)
    assert through(stops, list("xabcd"))[0] == ["x", "", "", "a"]


@given(st.text("ab"), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_cutting_a_text_into_tokens_changes_nothing(text: str, stops: list[str], data: st.DataObject) -> None:
    parts, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        parts.append(rest[:size])
        rest = rest[size:]
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    end = min(ends, default=None)
    expected = text
    if end is not None:
        expected = min((text[:end].removesuffix(s) for s in stops if text[:end].endswith(s)), key=len)
    shown, stopped = through(stops, parts)
    assert ("".join(shown), stopped) == (expected, end is not None)


# --- both


def test_a_stop_string_is_met_across_tokens_that_are_bytes() -> None:
    made = TokenText(of_bytes, b"", ["é!"])
    assert [made.push(token) for token in "aé!".encode()] == ["a", "", "", ""]
    assert made.stopped
    assert made.flush() == ""


def test_at_the_end_what_waited_comes_out() -> None:
    made = TokenText(of_bytes, b"", ["é!"])
    shown = "".join(made.push(token) for token in "aé".encode())
    assert (shown, made.flush(), made.stopped) == ("a", "é", False)
