"""Z85, the text of a CURVE key: five printable characters for four bytes (https://rfc.zeromq.org/spec/32).

Without zmq, because what only reads or shows a key needs no socket library. Pure.
"""

from __future__ import annotations

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_WEIGHTS = tuple(85**power for power in range(4, -1, -1))


def encode(raw: bytes) -> str:
    """The text of `raw`. Raises `ValueError` unless its length is a multiple of 4."""
    if len(raw) % 4:
        raise ValueError("Z85 writes bytes by fours")
    words = (int.from_bytes(raw[start : start + 4], "big") for start in range(0, len(raw), 4))
    return "".join(_ALPHABET[word // weight % 85] for word in words for weight in _WEIGHTS)


def decode(text: str) -> bytes:
    """The bytes that `text` stands for. Raises `ValueError` for what `encode` never wrote."""
    if len(text) % 5:
        raise ValueError("Z85 is written by fives")
    return b"".join(_word(text[start : start + 5]) for start in range(0, len(text), 5))


def _word(five: str) -> bytes:
    try:
        word = sum(_VALUE[character] * weight for character, weight in zip(five, _WEIGHTS, strict=True))
        return int.to_bytes(word, 4, "big")
    except KeyError:
        raise ValueError("a character that Z85 does not have") from None
    except OverflowError:
        raise ValueError("five characters of Z85 that are more than four bytes") from None
