"""Who may ask: by the name that the caller has for us, the page it comes from, the key that it shows. Pure.

Where no key is asked for, being on this machine is the key, and so is a web page in a browser here: it
can send requests to our address, even under a name of its own whose address it changes to ours (DNS
rebinding). A browser always tells these two things, so whoever calls us by a strange name or comes from
a page of somebody else's is refused, whatever it asks. There are no CORS headers for anybody.

Where keys are asked for, no page can know one. Changing the registry takes the admin key everywhere.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from wrk_base import callers, errors

from ..model_names import ModelNames
from . import api_keys
from .api_keys import ApiKey, Bucket
from .errors import WrongHost

OPEN_PATHS = ("/health", "/ready")  # for those who watch the process; they tell next to nothing
ADMIN_PATHS = "/api/workers/"  # the only ones that the admin key opens by itself
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
ADMIN_KEY_ADVICE = (
    "this takes the admin key, as authorization: Bearer KEY or x-wrk-admin-key: KEY; "
    "it lies in admin.key of the state directory of the orchestrator"
)
API_KEY_ADVICE = "this takes an API key, as authorization: Bearer KEY"

MOST_PASSED = 64  # combinations that were found well; whoever comes with another is looked at each time
PAGES = {b"origin", b"sec-fetch-site"}  # what browsers tell, whose verdict depends on more than headers

_LOOKED_AT = frozenset((b"host", b"authorization", b"x-wrk-admin-key", b"origin", b"sec-fetch-site"))
_AUTHORITY = r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253}?)\.?(?::(\d{1,5}))?"
_HOST = re.compile(_AUTHORITY)
_ORIGIN = re.compile(rf"(https?)://{_AUTHORITY}")
_BEARER = re.compile(rb"bearer +([\x21-\x7e]{1,512})", re.IGNORECASE)
_DEFAULT_PORT = {"http": 80, "https": 443}

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
Told: TypeAlias = dict[bytes, tuple[bytes, ...]]
Scope: TypeAlias = Mapping[str, Any]
Keys: TypeAlias = Callable[[float], tuple[ApiKey, ...]]

NOTHING: tuple[bytes, ...] = ()


class Caller(NamedTuple):
    """Who asks: with the admin key, by an API key, or neither, where none is asked for."""

    admin: bool = False
    key: ApiKey | None = None

    @property
    def name(self) -> str:
        """Whose share of what is scarce it takes."""
        return self.key.name if self.key is not None else ""

    @property
    def origin(self) -> str:
        """Whose results it may get again. Where no key is asked for, all are one caller."""
        return callers.ANYBODY if self.key is None else callers.api_key(self.key.sha256)

    def check_admin(self) -> None:
        if not self.admin:
            raise errors.Unauthenticated(ADMIN_KEY_ADVICE)

    def models_for(self, model_id: object, names: ModelNames) -> tuple[str, ...] | None:
        """Which models may answer it, None: all that `names` says. Raises `PermissionDenied`."""
        return api_keys.models_for(self.key, model_id, names)

    def chain(self, model_id: str, names: ModelNames) -> tuple[str, ...]:
        """The same for a listing: empty where `models_for` refuses."""
        limits = self.key.models if self.key is not None else None
        return names.chain(model_id) if limits is None else names.chain_within(model_id, limits)


ANYBODY = Caller()


class Gate:
    """`keys` tells the API keys of the moment; None: none are asked for, and `names` are ours."""

    def __init__(self, admin_key: bytes, names: Iterable[str], keys: Keys | None) -> None:
        self._admin_key = admin_key
        self._names = frozenset(_bare(name) for name in (*LOCAL_NAMES, *names))
        self._keys = keys
        self._known: tuple[ApiKey, ...] = ()
        self._buckets: dict[str, Bucket] = {}
        self._passed: set[object] = set()

    def admit(self, scope: Scope, path: str, now: float) -> Caller:
        """Who asks for `path`. Raises the `WrkError` that refuses it."""
        told = _told(scope["headers"])
        if self._keys is None:
            return self._admit_by_name(told, scope)
        _the_host(told)
        admin = self._is_admin(told)
        if path in OPEN_PATHS and scope["method"] in ("GET", "HEAD"):
            return ANYBODY
        if admin and path.startswith(ADMIN_PATHS):
            return Caller(admin=True)
        return Caller(admin, self._holder(self._keys(now), told, now))

    def _is_admin(self, told: Told) -> bool:
        shown = [*told.get(b"x-wrk-admin-key", NOTHING), *_bearers(told)]
        return any(hmac.compare_digest(key, self._admin_key) for key in shown)

    # --- where no key is asked for

    def _admit_by_name(self, told: Told, scope: Scope) -> Caller:
        """Programs send the same words with every request: what was found well is remembered."""
        plain = None if PAGES & told.keys() else tuple(told.items())
        if plain in self._passed:
            return ANYBODY
        self._check_name(_the_host(told))
        self._check_page(told, scope)
        if self._is_admin(told):
            return Caller(admin=True)
        if plain is not None and len(self._passed) < MOST_PASSED:
            self._passed.add(plain)
        return ANYBODY

    def _check_name(self, host: bytes) -> None:
        found = _HOST.fullmatch(_text(host))
        if found is None or found[1] not in self._names:
            raise WrongHost(
                f"this server is not called {host[:100].decode('latin-1')!r}; "
                "the setting http.allowedHosts lists further names of it"
            )

    def _check_page(self, told: Told, scope: Scope) -> None:
        """Refuse what a page of another server sends, or has a browser fetch. A link may lead here."""
        origins, site = told.get(b"origin", NOTHING), told.get(b"sec-fetch-site", NOTHING)
        if any(not self._is_ours(_text(origin), scope) for origin in origins):
            raise errors.PermissionDenied("web pages of other servers may not call this one")
        if site and site not in ((b"same-origin",), (b"none",)) and not _is_a_visit(scope):
            raise errors.PermissionDenied("web pages of other servers may not call this one")

    def _is_ours(self, origin: str, scope: Scope) -> bool:
        found = _ORIGIN.fullmatch(origin)
        if found is None or found[1] != scope["scheme"] or found[2] not in self._names:
            return False
        own: int = scope["server"][1]
        return int(found[3] or _DEFAULT_PORT[found[1]]) == own

    # --- where one is

    def _holder(self, keys: tuple[ApiKey, ...], told: Told, now: float) -> ApiKey:
        if keys is not self._known:
            there = {key.sha256 for key in keys}
            self._known = keys
            self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in there}
        shown = _bearers(told)
        key = api_keys.holder(keys, shown[0]) if shown else None
        if key is None:
            raise errors.Unauthenticated(API_KEY_ADVICE)
        self._count(key, now)
        return key

    def _count(self, key: ApiKey, now: float) -> None:
        if key.rate is None:
            return
        bucket = self._buckets.setdefault(key.sha256, Bucket(key.rate, now))
        wait = bucket.take(key.rate, now)
        if wait:
            raise errors.CapacityExceeded(
                f"this API key may ask {key.rate} times a minute", retry_after_ms=int(wait * 1000) + 1
            )


def _is_a_visit(scope: Scope) -> bool:
    """A person follows a link: the page it is on sees nothing of the answer."""
    wanted = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}
    told: dict[bytes, Any] = dict(scope["headers"])
    return scope["method"] == "GET" and all(told.get(name) == value for name, value in wanted.items())


def _the_host(told: Told) -> bytes:
    hosts = told.get(b"host", NOTHING)
    if len(hosts) != 1:
        raise errors.BadRequest("a request has one host header")
    return hosts[0]


def _told(headers: Headers) -> Told:
    """The headers that are looked at here, each with all its values."""
    told: Told = {}
    for name, value in headers:
        if name in _LOOKED_AT:
            told[name] = (*told.get(name, NOTHING), value)
    return told


def _bearers(told: Told) -> list[bytes]:
    """What is shown as `authorization: Bearer ...`; nothing if that is said twice."""
    values = told.get(b"authorization", NOTHING)
    found = _BEARER.fullmatch(values[0].strip()) if len(values) == 1 else None
    return [found[1]] if found else []


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip().lower()


def _bare(name: str) -> str:
    """A name as it stands in a header, without a port."""
    name = name.lower().rstrip(".")
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
