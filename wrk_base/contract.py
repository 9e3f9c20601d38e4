"""What the public methods take and give: the shapes that users of the family already know.

Keys are camelCase on the wire. Every bound here is checked when a body is read, so that one
malformed registration or request ends in a clear refusal instead of growing a table. Unknown keys
of requests are ignored, so that newer callers can talk to older workers.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec

from .errors import BadRequest

MAX_MODELS = 1000  # a rack lists models, not files: 1,000 names of 256 bytes are 256 kB in a registry
MAX_TAGS = 100
MAX_LABELS = 100
MAX_CONCURRENT = 1_000_000

_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]*$(?!\n)"  # `$` alone lets a trailing newline pass
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=_ID)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Text = Annotated[str, msgspec.Meta(max_length=256)]
Address = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Models = Annotated[list[Name], msgspec.Meta(max_length=MAX_MODELS)]
Tags = Annotated[list[Name], msgspec.Meta(max_length=MAX_TAGS)]
Labels = Annotated[dict[Name, Text], msgspec.Meta(max_length=MAX_LABELS)]
Concurrency = Annotated[int, msgspec.Meta(ge=1, le=MAX_CONCURRENT)]
Weight = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]


class Shape(msgspec.Struct, rename="camel", frozen=True, omit_defaults=False):
    """Base of every request and result: camelCase on the wire."""


class Capacity(Shape, frozen=True):
    max_concurrent: Concurrency = 1


class ModelFacts(Shape, frozen=True):
    """What one model of a worker can do beyond what the worker's own tags say. `context_length` is in
    tokens, 0 while unknown."""

    capabilities: Tags = []
    context_length: Tokens = 0


Facts = Annotated[dict[Name, ModelFacts], msgspec.Meta(max_length=MAX_MODELS)]


class Capabilities(Shape, frozen=True):
    """`models` can be asked for now; `cold` ones could be, once `loadModel` has made them ready. Who is
    `resumable` can go on with a stream that another worker of its type began."""

    models: Models = []
    tags: Tags = []
    capacity: Capacity = Capacity()
    cold: Models = []
    facts: Facts = {}
    resumable: bool = False


class Registration(Shape, frozen=True):
    """`registerWorker`: where a worker is and what it offers. `public_key` (Z85) is what a dial there needs;
    it may stand in the address as well, tcp://host:port#KEY."""

    worker_id: Id
    address: Address
    capabilities: Capabilities = Capabilities()
    labels: Labels = {}
    weight: Weight | None = None
    type: Text = ""
    public_key: Text = ""


class Registered(Shape, frozen=True):
    """Result of `registerWorker`; `registered_at` is Unix milliseconds, the lease milliseconds."""

    worker_id: str
    registered_at: int
    lease_ms: int
    success: bool = True


class WorkerRef(Shape, frozen=True):
    """`unregisterWorker`, `drainWorker`, `quarantineWorker`, `releaseWorker`."""

    worker_id: Id


class ModelRef(Shape, frozen=True):
    """`loadModel`, `unloadModel`."""

    model_id: Name


class Requirements(Shape, frozen=True):
    """What a worker must have: every capability, of its own or of its model's, every label, at least this
    capacity, and for its model a context of at least so many tokens, which it has to tell. With `resumes` it
    has to be of this type, and able to go on with streams that others of the type began."""

    capabilities: Tags = []
    min_capacity: Annotated[int, msgspec.Meta(ge=0, le=MAX_CONCURRENT)] = 0
    labels: Labels = {}
    min_context: Tokens = 0
    resumes: Text = ""


class FindWorker(Shape, frozen=True):
    """`findAvailableWorker`."""

    model_id: Name
    requirements: Requirements = Requirements()


class Options(Shape, frozen=True):
    """Options of an inference request. `task` is raw, chat, completion, embedding, rerank or response. With
    `explain` the answer says who might have given it, and why it was given by whom."""

    task: Annotated[str, msgspec.Meta(max_length=64)] = "raw"
    requirements: Requirements = Requirements()
    timeout_ms: Milliseconds | None = None
    session_id: Text | None = None
    priority: Annotated[str, msgspec.Meta(max_length=32)] = "default"
    repeatable: bool = True
    idempotency_key: Name | None = None
    simulate: bool = False
    explain: bool = False


class InferenceHead(Shape, frozen=True):
    """What a router reads of `routeInferenceRequest` and `runInference`; the input stays opaque."""

    model_id: Name
    options: Options = Options()
    simulate: bool = False


class Progress(Shape, frozen=True):
    """How far a stream has come that is to go on: the items that its caller has, packed as they were sent,
    and how many more, in number and bytes, the caller has room for."""

    content_type: int
    items: list[bytes]
    granted_items: Annotated[int, msgspec.Meta(ge=0)]
    granted_bytes: Annotated[int, msgspec.Meta(ge=0)]


class RackOptions(Options, frozen=True):
    """What a rack gets besides: `resume_from` are the items that the caller of this stream has already, from
    another rack of the same type; empty: it has none. On the way it is a `Progress`."""

    resume_from: Any = ()


class RackHead(InferenceHead, frozen=True):
    """The head of `runInference`."""

    options: RackOptions = RackOptions()


class Origin(Shape, frozen=True):
    """What an orchestrator adds to a head with an idempotency key: who asked (callers.py), for what model."""

    caller: Name
    model_id: Name


class RackInfo(Shape, frozen=True):
    """`info` of the family's `registerRack`."""

    address: Address
    capabilities: Capabilities = Capabilities()
    labels: Labels = {}
    weight: Weight | None = None
    public_key: Text = ""


class RegisterRack(Shape, frozen=True):
    id: Id
    info: RackInfo
    type: Text = ""


class RenewMachine(Shape, frozen=True):
    """`renewMachine`: the public key (Z85) that the caller's machine certifies with."""

    machine_key: Text


class Renewed(Shape, frozen=True):
    """Its result: the machine's next certificate."""

    certificate: bytes
    success: bool = True


class ForgetRacks(Shape, frozen=True):
    ids: Annotated[list[Id], msgspec.Meta(max_length=10_000)] = []
    all: bool = False


class WorkerFilter(Shape, frozen=True):
    """`listWorkers`: every field narrows the list."""

    model_id: Name | None = None
    state: Text | None = None
    labels: Labels = {}


class Description(Shape, frozen=True):
    """What a worker says of itself: an author's `describe()` returns it, `getInfo` carries it. `resumable`
    says that its `infer` heeds `options.resume_from`: what it then yields goes on behind these items."""

    models: Models = []
    tags: Tags = []
    max_concurrent: Concurrency = 1
    labels: Labels = {}
    weight: Weight | None = None
    cold: Models = []
    facts: Facts = {}
    resumable: bool = False


class Info(Shape, frozen=True):
    """What an orchestrator reads of a rack's `getInfo`."""

    models: Models = []
    tags: Tags = []
    labels: Labels = {}
    capacity: Capacity = Capacity()
    weight: Weight | None = None
    name: Text = ""
    type: Text = ""
    address: Text = ""
    cold: Models = []
    facts: Facts = {}
    resumable: bool = False


class _Told(Shape, frozen=True):
    origin: Origin | None = None


_inference_head = msgspec.msgpack.Decoder(InferenceHead)
_rack_head = msgspec.msgpack.Decoder(RackHead)
_raw_fields = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_origin = msgspec.msgpack.Decoder(_Told)
_EMPTY = b"\x80"  # an empty map

IDEMPOTENCY = "idempotency"
IDEMPOTENCY_SAYS = RAN, ATTACHED, STORED = "ran", "attached", "stored"
"""A fact of the answer to a request with an idempotency key: it ran for this request, the request joined
one that was running, or it was given what was kept."""

PAYLOAD_FIELDS: dict[str, tuple[str, str]] = {
    "routeInferenceRequest": ("inputData", "result"),
    "runInference": ("inputData", "result"),
}
"""Method -> (field of the request, field of the result) that travels as the opaque payload."""

T = TypeVar("T")

_MISSING = re.compile(r"Object missing required field `([^`]+)`")


def parse(kind: type[T], body: Any, *, what: str = "request") -> T:
    """`body` (a decoded map) as `kind`; `BadRequest` names the field and what is allowed."""
    try:
        return msgspec.convert({} if body is None else body, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise as_bad_request(error, what) from None


def read_head(head: bytes | None) -> InferenceHead:
    """The packed head of an inference request; `BadRequest` names the field and what is allowed."""
    try:
        return _inference_head.decode(head or _EMPTY)
    except (ValueError, RecursionError) as error:
        raise as_bad_request(error, "request") from None


def read_rack_head(head: bytes | None) -> RackHead:
    """The same as a rack reads it."""
    try:
        return _rack_head.decode(head or _EMPTY)
    except (ValueError, RecursionError) as error:
        raise as_bad_request(error, "request") from None


def with_model(head: bytes | None, model_id: str) -> bytes:
    """A head that `read_head` took, for another model; all the rest of it stays as it was packed."""
    fields = _raw_fields.decode(head or _EMPTY)
    fields["modelId"] = msgspec.Raw(msgspec.msgpack.encode(model_id))
    return msgspec.msgpack.encode(fields)


def with_progress(head: bytes | None, progress: Progress) -> bytes:
    """A head that `read_head` took, for the worker that goes on with a stream."""
    fields = _raw_fields.decode(head or _EMPTY)
    options = _raw_fields.decode(fields.get("options", _EMPTY))
    options["resumeFrom"] = msgspec.Raw(msgspec.msgpack.encode(progress))
    fields["options"] = msgspec.Raw(msgspec.msgpack.encode(options))
    return msgspec.msgpack.encode(fields)


def with_origin(head: bytes | None, origin: Origin) -> bytes:
    """The same head with an orchestrator's word on where it is from, in the place of any other word on it."""
    fields = _raw_fields.decode(head or _EMPTY)
    fields["origin"] = msgspec.Raw(msgspec.msgpack.encode(origin))
    return msgspec.msgpack.encode(fields)


def read_origin(head: bytes | None) -> Origin | None:
    """What `with_origin` wrote; to be asked of orchestrators' requests alone. Raises `BadRequest`."""
    try:
        return _origin.decode(head or _EMPTY).origin
    except (ValueError, RecursionError) as error:
        raise as_bad_request(error, "request") from None


def as_bad_request(error: Exception, what: str) -> BadRequest:
    """What msgspec found wrong, with the field in words and in `data`."""
    reason, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    missing = _MISSING.match(reason)
    if missing:
        field = f"{field}.{missing[1]}" if field else missing[1]
        reason = "it is required"
    where = f"{what}: {field}: " if field else f"{what}: "
    return BadRequest(where + reason, data={"field": field} if field else {})


def as_body(shape: Shape) -> dict[str, Any]:
    """The shape as the plain map that goes on the wire."""
    body: dict[str, Any] = msgspec.to_builtins(shape)
    return body
