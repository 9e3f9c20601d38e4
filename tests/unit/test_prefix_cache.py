"""The memory of a simulated model: what of a prompt it has seen before, and what it forgets first."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from racks.prefix_cache import BLOCK, PrefixCache


def blocks(letters: str) -> str:
    """A prompt of one block a letter."""
    return "".join(letter * BLOCK for letter in letters)


def test_a_prompt_goes_on_where_it_parts_from_an_earlier_one() -> None:
    cache = PrefixCache(16)
    assert cache.take(blocks("abc")) == 0
    assert cache.take(blocks("abd")) == 2 * BLOCK
    assert cache.take(blocks("abdc")) == 3 * BLOCK
    assert (cache.hits, cache.asked) == (5, 10)


def test_a_block_counts_only_after_the_same_beginning() -> None:
    cache = PrefixCache(16)
    cache.take(blocks("abc"))
    assert cache.take(blocks("bc")) == 0
    assert cache.take(blocks("xbc")) == 0


def test_the_last_block_counts_when_it_is_full() -> None:
    cache = PrefixCache(16)
    prompt = blocks("a") + "b" * (BLOCK - 1)
    assert (cache.take(prompt), cache.asked) == (0, 1)
    assert (cache.take(prompt), cache.asked) == (BLOCK, 2)
    assert cache.take(prompt + "b") == BLOCK
    assert cache.take(prompt + "b") == 2 * BLOCK
    assert cache.take("") == 0


def test_what_was_unused_for_longest_is_forgotten_first_and_ends_before_beginnings() -> None:
    cache = PrefixCache(4)
    cache.take(blocks("ab"))
    cache.take(blocks("xy"))
    assert cache.take(blocks("ab")) == 2 * BLOCK
    cache.take(blocks("s"))
    assert cache.take(blocks("ab")) == 2 * BLOCK
    assert cache.take(blocks("xy")) == BLOCK


def test_of_a_prompt_longer_than_the_cache_the_beginning_is_kept() -> None:
    cache = PrefixCache(3)
    assert cache.take(blocks("abcdef")) == 0
    assert cache.take(blocks("abcdef")) == 3 * BLOCK
    assert (cache.hits, cache.asked) == (3, 12)


def test_without_a_cache_nothing_is_found() -> None:
    cache = PrefixCache(0)
    assert [cache.take(blocks("abc")) for _ in range(2)] == [0, 0]
    assert (cache.hits, cache.asked) == (0, 6)


def test_text_that_is_no_valid_unicode_is_a_text_as_well() -> None:
    cache = PrefixCache(4)
    cache.take("\ud800" * BLOCK)
    assert cache.take("\ud800" * BLOCK) == BLOCK


@given(st.integers(0, 6), st.lists(st.text("abc", max_size=8), max_size=30))
def test_it_never_grows_and_never_keeps_a_block_without_its_beginning(size: int, prompts: list[str]) -> None:
    cache = PrefixCache(size)
    for letters in prompts:
        cache.take(blocks(letters))
        assert len(cache) <= size
    beginnings = {letters[:end] for letters in prompts for end in range(1, len(letters) + 1)}
    found = [
        letters for letters in beginnings if deepcopy(cache).take(blocks(letters)) == len(letters) * BLOCK
    ]
    assert len(found) == len(cache)
