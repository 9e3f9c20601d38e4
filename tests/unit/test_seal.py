"""Keys in announcements: members read what members sealed, for the same facts; for everybody else, and
for whatever else stands there, there is no key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.security.seal import KEY_BYTES, MAX_TEXT, Seal

SECRET, MESH, KEY, FACTS = b"s" * 32, b"m" * 16, bytes(range(32)), b"r1 on 192.168.1.7"
SEAL = Seal(SECRET, MESH)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_a_member_reads_what_a_member_sealed(key: bytes, facts: bytes) -> None:
    text = SEAL.seal(key, facts)

    assert Seal(SECRET, MESH).open(text, facts) == key
    assert len(text) == 80 <= MAX_TEXT
    assert text.isascii()


@pytest.mark.parametrize(
    "stranger",
    [Seal(b"S" * 32, MESH), Seal(SECRET, b"M" * 16), Seal(SECRET, b"")],
    ids=["another secret", "another mesh", "no mesh"],
)
def test_a_stranger_neither_reads_nor_writes(stranger: Seal) -> None:
    assert stranger.open(SEAL.seal(KEY, FACTS), FACTS) is None
    assert SEAL.open(stranger.seal(KEY, FACTS), FACTS) is None


@given(st.binary(max_size=40))
def test_a_text_stands_for_its_facts_only(facts: bytes) -> None:
    assert (SEAL.open(SEAL.seal(KEY, FACTS), facts) is None) is (facts != FACTS)


@given(st.integers(0, 79), st.sampled_from("ABCXYZabcxyz019-_"))
def test_a_text_with_one_other_character_opens_nothing(place: int, character: str) -> None:
    text = SEAL.seal(KEY, FACTS)
    altered = text[:place] + character + text[place + 1 :]

    assert (SEAL.open(altered, FACTS) is None) is (altered != text)


@given(st.text(max_size=200) | st.text("ABCabc012-_=", max_size=140))
def test_any_text_opens_to_nothing(text: str) -> None:
    assert SEAL.open(text, FACTS) is None


def test_one_key_is_never_the_same_text_twice() -> None:
    assert len({SEAL.seal(KEY, FACTS) for _ in range(100)}) == 100


@pytest.mark.parametrize("length", [0, 31, 33])
def test_secrets_and_keys_have_their_length(length: int) -> None:
    with pytest.raises(ValueError, match="a discovery secret has 32 bytes"):
        Seal(b"x" * length, MESH)
    with pytest.raises(ValueError, match="a public key has 32 bytes"):
        SEAL.seal(b"x" * length, FACTS)
    assert KEY_BYTES == 32
