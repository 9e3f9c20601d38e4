"""Every error that a caller can meet, on one page.

    WrkError                     code  HTTP
    ├── BadRequest                  3   400
    │   └── IdempotencyKeyReused    3   422
    ├── NotFound                    5   404
    │   ├── MethodNotFound         12   404
    │   └── WorkerNotFound          5   404
    ├── ModelNotAvailable           5   404
    ├── NoWorkersAvailable         14   503 (404 for a model never seen)
    ├── NoWorkersMatch              9   503
    ├── CapacityExceeded            8   429
    ├── AlreadyRan                  6   409
    ├── QueueTimeout               14   503
    ├── DeadlineExceeded            4   504
    ├── Cancelled                   1   499
    ├── Unavailable                14   503
    ├── UpstreamFailed              2   502 (over HTTP what the server behind the worker said)
    ├── Unauthenticated            16   401
    ├── PermissionDenied            7   403
    └── Internal                   13   500

    StartError                   not on the wire: why a process does not start (exit code 1)
    └── SettingsError            which source, key and value, and what is allowed

`code` is the gRPC status number that fits. `not_started` says that no handler ever ran, so that any
call may go elsewhere, even one that must not be repeated. Only name, code, safe text and safe data
cross the wire; causes are chained locally.
"""

from __future__ import annotations

from typing import Any, ClassVar


class WrkError(Exception):
    """Base of all errors that cross the wire.

    `message` is for people. `data` holds safe facts (a field name, what exists). `retry_after_ms`
    is a hint, None when there is none. `origin` is the worker id of the hop where it arose.
    """

    name: ClassVar[str] = "ERR_INTERNAL"
    code: ClassVar[int] = 13
    http_status: ClassVar[int] = 500
    retryable: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        data: dict[str, Any] | None = None,
        retry_after_ms: int | None = None,
        origin: str = "",
        not_started: bool = False,
    ) -> None:
        super().__init__(message or type(self).__doc__ or self.name)
        self.data = data or {}
        self.retry_after_ms = retry_after_ms
        self.origin = origin
        self.not_started = not_started

    @property
    def message(self) -> str:
        return str(self.args[0])


class BadRequest(WrkError):
    """The request is not well-formed."""

    name, code, http_status = "ERR_BAD_REQUEST", 3, 400


class IdempotencyKeyReused(BadRequest):
    """The same caller sent another request with this idempotency key."""

    name, http_status = "ERR_IDEMPOTENCY_KEY_REUSED", 422


class NotFound(WrkError):
    """There is no such thing."""

    name, code, http_status = "ERR_NOT_FOUND", 5, 404


class MethodNotFound(NotFound):
    """The worker has no such method."""

    name, code = "ERR_METHOD_NOT_FOUND", 12


class WorkerNotFound(NotFound):
    """No worker has this id."""

    name = "ERR_WORKER_NOT_FOUND"


class ModelNotAvailable(WrkError):
    """This worker does not serve the model."""

    name, code, http_status = "ERR_MODEL_NOT_AVAILABLE", 5, 404


class NoWorkersAvailable(WrkError):
    """No worker serves the model now."""

    name, code, http_status, retryable = "ERR_NO_WORKERS_AVAILABLE", 14, 503, True


class NoWorkersMatch(WrkError):
    """Workers serve the model, but none meets the requirements."""

    name, code, http_status, retryable = "ERR_NO_WORKERS_MATCH_REQUIREMENTS", 9, 503, True


class CapacityExceeded(WrkError):
    """Everything that could answer is at capacity."""

    name, code, http_status, retryable = "ERR_CAPACITY_EXCEEDED", 8, 429, True


class AlreadyRan(WrkError):
    """The request ran before, must not run twice, and what came of it is not kept."""

    name, code, http_status = "ERR_ALREADY_RAN", 6, 409


class QueueTimeout(WrkError):
    """No worker came free within the time that a request may wait for one."""

    name, code, http_status, retryable = "ERR_QUEUE_TIMEOUT", 14, 503, True


class DeadlineExceeded(WrkError):
    """The deadline passed before the answer came."""

    name, code, http_status = "ERR_DEADLINE_EXCEEDED", 4, 504


class Cancelled(WrkError):
    """The caller gave the call up."""

    name, code, http_status = "ERR_CANCELLED", 1, 499


class Unavailable(WrkError):
    """The peer cannot be reached, is stopping, or went away."""

    name, code, http_status, retryable = "ERR_UNAVAILABLE", 14, 503, True


class UpstreamFailed(WrkError):
    """The model server behind the worker refused the request, or failed.

    `data` holds what it answered: `status` (HTTP), `contentType` and `body`, shortened where it is long.
    With `not_started` it did no work for this request, so that another worker may be asked.
    """

    name, code, http_status = "ERR_UPSTREAM_FAILED", 2, 502


class Unauthenticated(WrkError):
    """The caller did not show who it is."""

    name, code, http_status = "ERR_UNAUTHENTICATED", 16, 401


class PermissionDenied(WrkError):
    """The caller may not do this."""

    name, code, http_status = "ERR_PERMISSION_DENIED", 7, 403


class Internal(WrkError):
    """Something failed inside the worker; its log says what."""


class StartError(Exception):
    """The process cannot start; the message says what is wrong and what to do."""


class SettingsError(StartError):
    """A setting is unknown, of the wrong type or out of range."""


def _tree(root: type[WrkError]) -> list[type[WrkError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


BY_NAME: dict[str, type[WrkError]] = {kind.name: kind for kind in _tree(WrkError)[1:]}
"""Wire name -> class."""


def no_memory() -> CapacityExceeded:
    """What a `MemoryError` is to a caller."""
    return CapacityExceeded("there is no memory left for this request", retry_after_ms=1000)


def from_wire(
    name: str,
    message: str,
    *,
    retryable: bool,
    retry_after_ms: int | None,
    origin: str,
    not_started: bool,
    data: dict[str, Any] | None,
) -> WrkError:
    """The error that a peer sent; an unknown name becomes `Internal` that says the name."""
    kind = BY_NAME.get(name)
    text = message if kind is not None else f"{name}: {message}"
    error = (kind or Internal)(
        text, data=data, retry_after_ms=retry_after_ms, origin=origin, not_started=not_started
    )
    error.retryable = retryable
    return error
