"""Texts that are safe to print: nothing from another process may steer a terminal or fake a line."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec


def printable(text: str, keep: str = "") -> str:
    """`text` with every control character but those in `keep` written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def json_line(value: Any) -> str:
    """One line, for programs."""
    return _harmless(msgspec.json.encode(value).decode())


def json_text(value: Any) -> str:
    """One line, or indented for a person who reads it on a terminal."""
    line = msgspec.json.encode(value)
    return _harmless((msgspec.json.format(line, indent=2) if sys.stdout.isatty() else line).decode())


def _harmless(text: str) -> str:
    """JSON escapes control characters up to U+001F, but U+009B starts a terminal's commands, too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
