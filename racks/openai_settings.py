"""The settings of the rack in front of an OpenAI-compatible server, and the key that they name.

The key is in the environment alone, under a name that a setting says, so that no file, flag, process list
or `--show-config` holds it. The URL holds none either. Reasons stand beside the bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, field

from wrk_base import contract, errors
from wrk_base.config import HOUR, Section, count, ms, says

from .origin import parse_origin

# fmt: off  (one setting, one block, as in wrk_base/config.py)

class OpenAISettings(Section, frozen=True):
    """Section `openai`: which server, and how it is treated."""

    upstream: Annotated[str, Meta(max_length=2048, description=
        "URL of the server, http://localhost:11434 for an Ollama on this machine; empty: the only one found "
        "at `modelServers.addresses`. A name and a password have no place in it: see `apiKeyEnv`.")] = ""
    api_key_env: Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$(?!\n)", description=
        "Name of the environment variable that holds the server's API key; empty: none is sent. The key "
        "itself is in no setting, since settings are shown.", title="the name of a variable")] = ""
    models: Annotated[contract.Models, says(
        "Models to offer, as names or patterns such as llama*; empty: all that the server lists.")] = field(
        default_factory=list)
    max_concurrent: Annotated[int, count(0, contract.MAX_CONCURRENT,
        "Requests that the server is given at once; 0: as many as it says it runs, else 32. Fewer keeps its "
        "own queue short, so that another rack may take what waits; more fills its batches.")] = 0
    refresh_interval: Annotated[int, ms(100, HOUR,
        "Period of the look at the server's list of models. Shorter sees new models and a dead server "
        "sooner; longer asks less.")] = 5000
    poll_timeout: Annotated[int, ms(10, HOUR,
        "How long that list may take. Shorter finds a hung server sooner; longer forgives one that loads a "
        "model meanwhile.")] = 5000
    poll_failures: Annotated[int, count(1, 1000,
        "Bad or late lists in a row until the server counts as away. Fewer reacts sooner; more forgives. One "
        "that refuses connections is away at once.")] = 3
    connect_timeout: Annotated[int, ms(10, HOUR,
        "How long a connection to the server may take. Shorter moves on to another rack sooner; longer "
        "forgives a slow network.")] = 3000
    silence_timeout: Annotated[int, ms(100, HOUR,
        "How long the server may send nothing in the middle of an answer. Shorter notices a hung model "
        "sooner; longer forgives one that thinks between two tokens.")] = 120_000

    def __post_init__(self) -> None:
        if self.upstream:
            try:
                parse_origin(self.upstream)
            except ValueError as error:  # the value itself may hold a secret, and is not repeated
                raise ValueError(f"upstream: {error}") from None

# fmt: on


def secret_of(settings: OpenAISettings, environ: Mapping[str, str]) -> str:
    """The API key, empty where none is named; raises `StartError`."""
    name = settings.api_key_env
    if not name:
        return ""
    secret = environ.get(name, "").strip()
    if not secret:
        raise errors.StartError(f"openai.apiKeyEnv: the environment has no {name}, or it is empty")
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise errors.StartError(f"openai.apiKeyEnv: {name} holds what cannot stand in an HTTP header")
    return secret
