"""The word that invites a machine survives chat programs, and the messages of a join stay within bounds."""

from __future__ import annotations

import base64
import re
import textwrap
from dataclasses import replace
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.security.certificate import Untrusted, key_id
from wrk_base.security.invitation import (
    MAX_JOIN,
    MAX_WORD,
    PREFIX,
    Invitation,
    JoinGrant,
    JoinRequest,
)

ROOT = b"r" * 32
INVITATION = Invitation(
    mesh="default",
    mesh_id=key_id(ROOT),
    root=ROOT,
    addresses=("tcp://192.0.2.1:8004", "tcp://[2001:db8::1]:8004"),
    key=b"i" * 32,
    secret=b"s" * 16,
    expires=1_800_000_000,
)
WORD = INVITATION.encode()
REQUEST = JoinRequest(b"s" * 16, b"k" * 32, "m2")
GRANT = JoinGrant(b"certificate", ROOT, b"d" * 32, b"list")


# --- the word


def test_an_invitation_is_one_plain_word() -> None:
    assert re.fullmatch(r"wrk-join-[a-z2-7]+", WORD)
    assert len(WORD) < 350
    assert Invitation.decode(WORD) == INVITATION


@pytest.mark.parametrize(
    "text",
    [
        f"  {WORD}\n",
        "\n".join(textwrap.wrap(WORD, 60)),
        "\r\n > ".join(textwrap.wrap(WORD, 60)).replace(">", " "),
        WORD.upper(),
        WORD.capitalize(),
        "\u200b".join(WORD),
        f"\ufeff{WORD}\u00a0",
    ],
)
def test_what_chat_and_mail_do_to_a_word_does_not_matter(text: str) -> None:
    assert Invitation.decode(text) == INVITATION


def test_the_longest_invitation_is_within_the_bound() -> None:
    host = "h" + "o" * 251 + "t"
    longest = replace(INVITATION, mesh="m" * 63, addresses=(f"tcp://{host}:65535",) * 4, expires=2**53 - 1)
    assert len(longest.encode()) < MAX_WORD
    assert Invitation.decode(longest.encode()) == longest


def test_a_secret_is_not_shown_by_accident() -> None:
    for shown in (repr(INVITATION), repr(REQUEST), repr(GRANT)):
        assert "sss" not in shown
        assert "ddd" not in shown


def test_a_word_that_is_cut_off_says_so() -> None:
    for length in range(len(PREFIX), len(WORD)):
        with pytest.raises(ValueError, match="cut off: copy all of it"):
            Invitation.decode(WORD[:length])


def test_every_letter_counts() -> None:
    for position in range(len(PREFIX), len(WORD)):
        other = "a" if WORD[position] != "a" else "b"
        with pytest.raises(ValueError, match=r"damaged|cut off"):
            Invitation.decode(WORD[:position] + other + WORD[position + 1 :])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no invitation: one begins with wrk-join-"),
        ("hello", "no invitation"),
        (WORD[1:], "no invitation"),
        ("wrk-join", "no invitation"),
        (WORD + ".", r"damaged \(only letters and the digits 2 to 7"),
        (WORD.replace("a", "ä"), "damaged"),
        (WORD + "=", "damaged"),
        (WORD + "aa", "damaged"),
        (WORD + "a" * MAX_WORD, "too long"),
        (WORD + " " * 10 * MAX_WORD + "x" * 10 * MAX_WORD, None),
    ],
)
def test_what_is_no_invitation_says_what_is_wrong(text: str, reason: str | None) -> None:
    if reason is None:
        assert Invitation.decode(text) == INVITATION
        return
    with pytest.raises(ValueError, match=reason):
        Invitation.decode(text)


def word(packed: bytes, version: int = 1) -> str:
    body = bytes([version]) + len(packed).to_bytes(2, "big") + packed
    framed = body + crc32(body).to_bytes(4, "big")
    return PREFIX + base64.b32encode(framed).decode().lower().rstrip("=")


def test_another_version_is_told_from_damage() -> None:
    with pytest.raises(ValueError, match=r"another version \(2, this program reads 1"):
        Invitation.decode(word(b"whatever", version=2))


CHANGES: list[tuple[str, Any, str]] = [
    ("mesh", "", "a mesh's name has"),
    ("mesh", "..", "a mesh's name has"),
    ("mesh", "a/b", "a mesh's name has"),
    ("mesh", "a\n", "a mesh's name has"),
    ("mesh_id", b"m" * 16, "not that of its root key"),
    ("root", b"r" * 31, "a key has 32 bytes"),
    ("key", b"i" * 33, "a key has 32 bytes"),
    ("addresses", (), "1 to 4 addresses"),
    ("addresses", ("tcp://192.0.2.1:1",) * 5, "1 to 4 addresses"),
    ("addresses", ("192.0.2.1:1",), "not written tcp://host:port"),
    ("addresses", ("tcp://192.0.2.1:1#" + "k" * 40,), "not written tcp://host:port"),
    ("addresses", ("tcp://192.0.2.1",), "no port"),
    ("addresses", ("ipc://x:1",), "only tcp"),
    ("addresses", ("tcp://0.0.0.0:1",), "no address to dial"),
    ("secret", b"s" * 15, "a secret has 16 bytes"),
    ("expires", 0, "no end"),
    ("expires", 2**53, "no end"),
]


@pytest.mark.parametrize(("field", "value", "reason"), CHANGES)
def test_what_is_out_of_bounds_is_neither_made_nor_read(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(INVITATION, **{field: value})
    fields = {name: getattr(INVITATION, name) for name in Invitation.__slots__} | {field: value}
    with pytest.raises(ValueError, match=f"cannot be used .*{reason}"):
        Invitation.decode(word(msgspec.msgpack.encode(tuple(fields.values()))))


@given(st.text() | st.text().map(PREFIX.__add__))
def test_whatever_text_comes_the_only_answer_is_an_error_for_people(text: str) -> None:
    with pytest.raises(ValueError, match=r"this (is|invitation)"):
        Invitation.decode(text)


@given(st.binary(max_size=300))
def test_whatever_is_framed_the_only_answer_is_an_error_for_people(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be used"):
        Invitation.decode(word(data))


# --- the messages


def test_the_messages_come_back_as_they_were_packed() -> None:
    assert JoinRequest.unpack(REQUEST.pack()) == REQUEST
    assert JoinGrant.unpack(GRANT.pack()) == GRANT


def test_a_message_is_as_long_as_a_greeting_at_most() -> None:
    def with_list(length: int) -> JoinGrant:
        return JoinGrant(b"certificate", ROOT, b"d" * 32, bytes(length))

    room = MAX_JOIN - len(with_list(2000).pack()) + 2000
    assert len(with_list(room).pack()) == MAX_JOIN
    assert JoinGrant.unpack(with_list(room).pack()) == with_list(room)
    with pytest.raises(ValueError, match="4096 are allowed"):
        with_list(room + 1).pack()
    with pytest.raises(Untrusted, match="longer than 4096 bytes"):
        JoinGrant.unpack(bytes(MAX_JOIN + 1))


@pytest.mark.parametrize(
    "row",
    [
        (),
        (b"s" * 16, b"k" * 32),
        (b"s" * 16, b"k" * 32, "m2", 1),
        (b"s" * 15, b"k" * 32, "m2"),
        (b"s" * 17, b"k" * 32, "m2"),
        (b"s" * 16, b"k" * 31, "m2"),
        (b"s" * 16, b"k" * 32, b"m2"),
        (b"s" * 16, b"k" * 32, ""),
        (b"s" * 16, b"k" * 32, "a\nb"),
        (b"s" * 16, b"k" * 32, "m" * 129),
    ],
)
def test_a_request_out_of_bounds_is_refused(row: tuple[object, ...]) -> None:
    with pytest.raises(Untrusted, match="request to join is malformed"):
        JoinRequest.unpack(msgspec.msgpack.encode(row))


@pytest.mark.parametrize(
    "row",
    [
        (b"c", ROOT, b"d" * 32),
        (b"c", ROOT, b"d" * 32, b"", b""),
        (b"c" * 1497, ROOT, b"d" * 32, b""),
        (b"c", ROOT + b"r", b"d" * 32, b""),
        (b"c", ROOT, b"d" * 31, b""),
        (b"c", ROOT, b"d" * 32, None),
    ],
)
def test_a_grant_out_of_bounds_is_refused(row: tuple[object, ...]) -> None:
    with pytest.raises(Untrusted, match="answer to the request to join is malformed"):
        JoinGrant.unpack(msgspec.msgpack.encode(row))


@given(st.binary(max_size=200))
def test_whatever_bytes_come_the_only_answer_is_untrusted(data: bytes) -> None:
    for kind in (JoinRequest, JoinGrant):
        with pytest.raises(Untrusted):
            kind.unpack(data)
