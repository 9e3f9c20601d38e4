"""Where an upstream is, from the URL that a person wrote. Pure.

People write `http://localhost:11434`, with or without a slash or `/v1` at the end. A URL with a name and a
password in it is refused, and no message shows them: URLs are logged, listed and shown by `--show-config`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

FORM = "http://HOST:PORT or https://HOST, with a path where the server is below one"
PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """`path` is what goes before `/v1`: empty, or with a slash in front and none at the end."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """As in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"


def parse_origin(url: str) -> Origin:
    """Raises `ValueError`, whose text may be shown to anybody."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(f"it must be {FORM}, in plain ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"it must be {FORM}") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"it must be {FORM}")
    if "@" in parts.netloc:
        raise ValueError("a name and a password in the URL would be shown; give a key by `apiKeyEnv`")
    if parts.query or parts.fragment:
        raise ValueError(f"it must be {FORM}, without ? and #")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Origin(parts.scheme == "https", parts.hostname, port or PORTS[parts.scheme], path)
