"""What a person hands to a command: texts, files, JSON, addresses. Anything unusable is wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import typer

from wrk_base.discovery.advert import parse_peer


def read_input(text: str) -> str:
    """The text itself, what the file of `@FILE` holds, or for `-` what comes on standard input."""
    try:
        if text == "-":
            return sys.stdin.buffer.read().decode()
        return Path(text[1:]).read_bytes().decode() if text.startswith("@") else text
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{text}: not UTF-8") from None


def parse_json(text: str, what: str) -> Any:
    """The value that a JSON text stands for."""
    try:
        return msgspec.json.decode(text.encode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{what} is not valid JSON: {error}") from None


def body_of(text: str, task: str, model: str) -> Any:
    """The text as the input of a task: OpenAI's body, or for task raw the text itself."""
    match task:
        case "raw":
            return text
        case "chat":
            return {"model": model, "messages": [{"role": "user", "content": text}]}
        case "completion":
            return {"model": model, "prompt": text}
        case "embedding" | "response":
            return {"model": model, "input": text}
        case "rerank":
            example = '{"query": "...", "documents": ["...", "..."]}'
            raise typer.BadParameter(f"--task rerank has more than one text: --input-json '{example}'")
    raise typer.BadParameter(f"--task {task}: there are raw, chat, completion, embedding, rerank, response")


def is_address(peer: str) -> bool:
    """Whether `tcp://host:port` was meant, not an id."""
    return "://" in peer


def endpoint(peer: str) -> str:
    """`tcp://host:port` or `tcp://host:port#KEY`, as an argument or after --peer."""
    try:
        parsed = parse_peer(peer)
        return f"{parsed.endpoint}#{parsed.key}" if parsed.key else parsed.endpoint
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
