"""TLS for the HTTP server, from two files. Whatever is wrong with them is told with the setting's name."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from wrk_base.config import HttpSettings
from wrk_base.errors import StartError

FOR_OTHERS = 0o077


def server_context(settings: HttpSettings) -> ssl.SSLContext | None:
    """None if no certificate is set. Raises `StartError`."""
    if not settings.tls_certificate:
        return None
    certificate, key = Path(settings.tls_certificate), Path(settings.tls_key)
    _check_readable("http.tlsCertificate", certificate)
    mode = _check_readable("http.tlsKey", key)
    if mode & FOR_OTHERS:
        raise StartError(
            f"http.tlsKey: {key} is open to other users (mode {stat.S_IMODE(mode):04o}): chmod 600 {key}; "
            "if one of them may have read it, get a new certificate"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise StartError(
            f"http.tlsCertificate {certificate} and http.tlsKey {key} cannot be used ({reason}): "
            "both are PEM, the key fits the certificate and has no password"
        ) from None
    return context


def _check_readable(setting: str, path: Path) -> int:
    """The mode of the file."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise StartError(f"{setting}: {path} cannot be read ({error.strerror})") from None


def _no_password() -> str:
    raise ValueError("the key has a password")
