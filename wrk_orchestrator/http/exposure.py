"""Whether HTTP may listen where it was told to: on the network only with keys and TLS. Pure.

Each of the two is waived by a setting that says so, and by nothing else; what was waived is told at
every start. On loopback neither is needed: whoever is on this machine may ask.
"""

from __future__ import annotations

from typing import NamedTuple

from wrk_base.config import HttpSettings
from wrk_base.discovery.advert import is_loopback
from wrk_base.errors import StartError


class Waived(NamedTuple):
    """An event for the log, and what it means."""

    event: str
    advice: str


KEYS = Waived("http.without_keys", "whoever reaches this address may use every model; set up API keys")
TLS = Waived("http.without_tls", "keys and prompts can be read on the network; set http.tlsCertificate")


def wants_keys(host: str, settings: HttpSettings) -> bool:
    """Whether callers at this address have to show an API key."""
    return not is_loopback(host) and not settings.without_keys


def check(host: str, settings: HttpSettings, have_keys: bool) -> list[Waived]:
    """What was waived. Raises `StartError`, which says all that is missing."""
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise StartError("http.tlsCertificate and http.tlsKey are given together or not at all")
    if is_loopback(host):
        return []
    has_tls = bool(settings.tls_certificate)
    missing = []
    if wants_keys(host, settings) and not have_keys:
        missing.append("an API key (make one with `wrk key add NAME`, or do without: --http.withoutKeys)")
    if not has_tls and not settings.without_tls:
        missing.append(
            "TLS (--http.tlsCertificate FILE --http.tlsKey FILE, or do without: --http.withoutTls)"
        )
    if missing:
        raise StartError(f"HTTP on {host}, where other machines reach it, needs {' and '.join(missing)}")
    return [*([KEYS] if settings.without_keys else []), *([TLS] if not has_tls else [])]
