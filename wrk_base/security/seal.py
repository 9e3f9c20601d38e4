"""A public key as announcements carry it: only members can read it, and only they can have written it.

The secret is the mesh's discovery secret, which every member received when it joined. So a text that
opens proves that a member wrote it for just these facts; it proves nothing about who is there now, as
anybody can repeat what was heard. To be sure of the process is the encrypted link's part.

ChaCha20-Poly1305 (RFC 8439) under HKDF-SHA-256 (RFC 5869) of the secret for this mesh. The nonce is
random: a process seals one key a start, so 96 bits never meet by chance (2^32 texts would be allowed).
"""

from __future__ import annotations

import base64
import binascii
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PURPOSE = b"wrk discovery 1 "
KEY_BYTES = 32  # what is sealed, a CURVE public key; and the length of the cipher's own key
NONCE_BYTES, TAG_BYTES = 12, 16
MAX_TEXT = 128  # characters; what is sealed takes 80

_BASE64URL = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TEXT}}}")


class Seal:
    """What all members of one mesh can write and read. `secret` is 32 bytes, `mesh` the mesh's id.

    Raises `ValueError` for a secret of another length.
    """

    def __init__(self, secret: bytes, mesh: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a discovery secret has {KEY_BYTES} bytes")
        derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=PURPOSE + mesh).derive(secret)
        self._cipher = ChaCha20Poly1305(derived)

    def seal(self, key: bytes, facts: bytes) -> str:
        """The public key `key` for these facts, as 80 characters of base64url. Raises `ValueError`."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a public key has {KEY_BYTES} bytes")
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, key, facts)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, text: str, facts: bytes) -> bytes | None:
        """The public key, or None: no member sealed it for these facts. Raises nothing."""
        if _BASE64URL.fullmatch(text) is None:
            return None
        try:
            sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            key = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], facts)
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return key if len(key) == KEY_BYTES else None
