"""Every setting on one page: name, default, unit, bounds, and what a smaller or larger value costs.

The Structs are the schema, the defaults and the documentation at once: `config/schema.json`,
`--show-config` and every error message are made from them. Keys are camelCase outside and
snake_case here. This page must not know where values come from (`settings_loader.py` does), and
nothing is listed here that no code reads.

Bounds are there to catch slips (seconds written for milliseconds, a share above 1) and to keep one
process within the memory and the file descriptors of a small machine; they are not advice.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

HOUR = 3_600_000
DAY = 24 * HOUR
ENVIRONMENTS = ("development", "production", "staging", "test")


def ms(low: int, high: int, text: str) -> Meta:
    """A duration: whole milliseconds from `low` to `high`."""
    return Meta(ge=low, le=high, description=f"{text} Milliseconds.", extra={"unit": "ms"})


def size(low: int, high: int, text: str) -> Meta:
    """A size: whole bytes from `low` to `high`."""
    return Meta(ge=low, le=high, description=f"{text} Bytes.", extra={"unit": "bytes"})


def count(low: int, high: int, text: str) -> Meta:
    """A number of things from `low` to `high`."""
    return Meta(ge=low, le=high, description=text)


def share(text: str) -> Meta:
    """A share: 0 is none, 1 is all."""
    return Meta(ge=0, le=1, description=text)


def says(text: str) -> Meta:
    """What a setting of any other kind means."""
    return Meta(description=text)


# `$(?!\n)`: Python's `$` alone lets a trailing newline pass.
_PORT_RANGE = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
_HOST = r"([^\s:/#,\[\]]{1,253}|\[[0-9A-Fa-f:.%a-z]{2,64}\])"

_WEB_HOST = r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
_KEY = r"[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40}"  # Z85; a list in one text may not hold a comma

Port = Annotated[int, Meta(ge=0, le=65535)]
Peer = Annotated[
    str,
    Meta(
        pattern=rf"^tcp://{_HOST}:{_PORT_RANGE}(#{_KEY})?$(?!\n)",
        title="tcp://host:port or tcp://host:port#KEY with a port from 1 to 65535 and a key of 40 characters",
    ),
]
MeshName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9._-]{1,63}$(?!\n)", title="1 to 63 of A-Z, a-z, 0-9, dot, underscore, dash"),
]
Range = Annotated[
    str, Meta(pattern=r"^[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}$(?!\n)", title="a network such as 10.0.0.0/8")
]
MethodLimits = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[int, Meta(ge=1, le=1_000_000)]],
    Meta(max_length=1000),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Aliases = Annotated[dict[ModelName, ModelName], Meta(max_length=1000)]
Fallbacks = Annotated[
    dict[ModelName, Annotated[list[ModelName], Meta(min_length=1, max_length=8)]], Meta(max_length=1000)
]
Interface = Annotated[str, Meta(pattern=r"^\S{1,255}$(?!\n)", title="an address or the name of an interface")]
ServerUrl = Annotated[
    str,
    Meta(
        pattern=rf"^https?://{_WEB_HOST}(:{_PORT_RANGE})?(/[A-Za-z0-9._~%/-]{{0,1000}})?$(?!\n)",
        title="http(s)://host, with :port or /path or both",
    ),
]
ServerPort = Annotated[int, Meta(ge=1, le=65535)]
HostName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._-]{1,253}$(?!\n)", title="a host's name or IPv4 address, without a port")
]
FilePath = Annotated[
    str, Meta(pattern=r"^(\S([^\n]{0,4094}\S)?)?$(?!\n)", title="the path of a file, or nothing")
]
Strategy = Literal[
    "round-robin",
    "least-connections",
    "weighted",
    "random",
    "power-of-two",
    "peak-ewma",
    "prequal",
    "consistent-hash",
    "prefix-aware",
]
LogFormat = Literal["auto", "json", "pretty"]
LogLevel = Literal["auto", "debug", "info", "warning", "error"]


# fmt: off  (one setting, one block: name and bounds first, then its text, then its default)

class Section(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """Base of every section, also of those that worker classes bring along."""


class RpcSettings(Section, frozen=True):
    """Links between processes."""

    port: Annotated[Port | None, says(
        "TCP port for RPC; null: 8004 for orchestrators, chosen by the kernel for racks. A fixed port suits "
        "firewalls and static peers, 0 lets any number of processes share a host.")] = None
    connect_timeout: Annotated[int, ms(1, HOUR,
        "How long a call waits for a link before it fails as never started. Shorter moves on to another "
        "worker sooner; longer forgives a slow or restarting peer.")] = 3000
    redial_min: Annotated[int, ms(1, HOUR,
        "First pause before a lost peer is dialled again. Shorter finds a restarted peer sooner; longer "
        "sends fewer packets to a dead one.")] = 100
    redial_max: Annotated[int, ms(1, HOUR,
        "Longest pause between dials; the pause doubles up to it. Shorter notices a return sooner; longer "
        "is kinder to the network when many peers are away.")] = 1000
    handshake_timeout: Annotated[int, ms(10, HOUR,
        "How long a new connection may take until both sides have said hello. Shorter frees descriptors "
        "held by strangers; longer forgives a stalled peer.")] = 3000
    max_message_size: Annotated[int, size(524_288, 67_108_864,
        "Longest ZeroMQ message accepted; a longer one ends its link. Larger bodies travel in chunks. "
        "Smaller bounds what a stranger can make this process hold; larger saves little.")] = 1_048_576
    max_peers: Annotated[int, count(1, 65_536,
        "Outbound links kept open; beyond it the one idle longest is closed. Fewer saves descriptors (two a "
        "link); more spares redials on a large mesh.")] = 4096
    max_pending: Annotated[int, count(1, 1_000_000,
        "Calls that may wait for an answer on one link; further ones are refused as never started. Fewer "
        "bounds memory; more lets one peer carry a longer queue.")] = 65_536
    max_in_flight: Annotated[int, count(1, 1_000_000,
        "Handlers that may run at once in this worker; further requests wait. Fewer keeps answers quick "
        "under a flood; more uses a handler that mostly waits.")] = 10_000
    method_limits: Annotated[MethodLimits, says(
        "Handlers of one method that may run at once, by the method's name, over what its author said. "
        "Keeps one costly method from taking the worker from all others.")] = {}
    max_waiting: Annotated[int, count(0, 1_000_000,
        "Requests that may wait for a free handler; further ones are refused as never started. Fewer fails "
        "sooner under overload; more rides out a burst.")] = 1000
    max_streams: Annotated[int, count(1, 1_000_000,
        "Streams that one peer may have open here, and this process there. Fewer bounds what windows may "
        "hold in all; more serves a busy gateway.")] = 10_000
    stream_items: Annotated[int, count(32, 1_048_576,
        "Items that may be under way on one stream while its reader keeps up; it starts with 32. Fewer "
        "stops a producer sooner; above 1,024 nothing is gained.")] = 1024
    stream_bytes: Annotated[int, size(262_144, 1_073_741_824,
        "Bytes that may be under way on one stream while its reader keeps up. Fewer bounds what a slow "
        "reader costs; more fills a link with a long way.")] = 1_048_576
    link_window: Annotated[int, size(1_048_576, 1_073_741_824,
        "Bytes that may be under way on one link before the other side has read them. Smaller bounds what a "
        "peer that does not read costs; larger fills a link with a long way.")] = 8_388_608
    max_body: Annotated[int, size(1_048_576, 4_294_967_296,
        "Longest body of a request or an answer; above 256 KiB it travels in chunks. Smaller bounds what "
        "one call can hold; larger carries larger files.")] = 134_217_728
    peer_bytes: Annotated[int, size(1_048_576, 1_099_511_627_776,
        "Bytes of requests that one peer may have open here, and of answers that may wait for it. Smaller "
        "keeps one peer from crowding out others; larger takes larger bodies at once.")] = 268_435_456
    process_bytes: Annotated[int, size(1_048_576, 1_099_511_627_776,
        "Bytes of requests and of answers in chunks that this process holds for all peers; beyond it they "
        "are refused as never started. Set it to what the machine can spare.")] = 1_073_741_824
    max_frames: Annotated[int, count(2, 100_000_000,
        "Frames of one ZeroMQ message, of which two are ever needed, until its sender is thrown out. Fewer "
        "ends a flood sooner; more forgives, which nobody needs.")] = 10_000
    threads: Annotated[int, count(1, 10_000,
        "Threads for handlers declared blocking. Fewer bounds what they take; more serves handlers that "
        "mostly wait for something outside Python.")] = 8
    processes: Annotated[int, count(1, 1000,
        "Processes for handlers declared so. About as many as cores to spare; each holds its own copy of "
        "what it imports.")] = 2
    heartbeat: Annotated[int, ms(100, HOUR,
        "Period of ZeroMQ's own heartbeat, a fuse for hosts that vanish without closing. Shorter blows "
        "sooner; longer costs less idle traffic. Health has beats of its own.")] = 2000
    heartbeat_timeout: Annotated[int, ms(100, HOUR,
        "Silence after a ZeroMQ heartbeat that closes the link. Shorter frees dead links sooner; longer "
        "forgives a host that stands still.")] = 6000


class DiscoverySettings(Section, frozen=True):
    """How processes find each other."""

    mesh: Annotated[MeshName, says(
        "Name of the mesh; processes of other meshes on the same network are ignored. One name joins "
        "everything that hears it; several keep teams apart.")] = "default"
    mdns: Annotated[bool, says(
        "Announce and browse by mDNS. On needs no set-up on one network; off is silent, and then only "
        "`peers` are known.")] = True
    peers: Annotated[list[Peer], Meta(max_length=4096, description=
        "Peers that are always dialled, mDNS or not, as tcp://host:port or tcp://host:port#KEY. Reaches "
        "routed networks and containers, but is kept up by hand.")] = []
    ranges: Annotated[list[Range], Meta(max_length=256, description=
        "Networks in which announced peers may be, as 10.0.0.0/8; empty: private addresses, and the networks "
        "of the own interfaces. Fewer keeps announcements from being dialled that point elsewhere.")] = []


class HealthSettings(Section, frozen=True):
    """When a worker is doubted, left out, and taken back."""

    heartbeat_interval: Annotated[int, ms(10, HOUR,
        "Period of a rack's beats to every orchestrator while nothing else is sent. Shorter sees a loss "
        "sooner; longer carries more racks per core.")] = 1000
    silence_timeout: Annotated[int, ms(10, DAY,
        "Silence after which a worker is out of routing. Shorter reacts sooner; longer forgives a host that "
        "pauses.")] = 3500
    probe_timeout: Annotated[int, ms(1, HOUR,
        "How long a health probe may take before it counts as failed. Shorter finds slow workers; longer "
        "spares busy ones.")] = 2000
    deadline_misses: Annotated[int, count(1, 1000,
        "Deadlines missed in a row that put a worker in quarantine. Fewer stops feeding a hung worker "
        "sooner; more forgives requests with tight deadlines.")] = 5
    quarantine_min: Annotated[int, ms(1, DAY,
        "Length of a first quarantine. Shorter brings a worker back sooner; longer lets it recover.")] = 5000
    quarantine_max: Annotated[int, ms(1, DAY,
        "Longest quarantine; the length doubles with each repetition up to it. Shorter tries a bad worker "
        "more often; longer leaves a repaired one unused.")] = 300_000
    probation_successes: Annotated[int, count(1, 1000,
        "Successes in a row that end a probation. Fewer restores capacity sooner; more makes sure that the "
        "worker is well.")] = 5
    flap_high: Annotated[float, share(
        "Weighted share of state changes among the last results at which a worker counts as flapping. Lower "
        "catches unstable workers sooner; higher tolerates a rough network.")] = 0.30
    flap_low: Annotated[float, share(
        "Share below which it no longer counts as flapping. Lower wants a longer calm; close to `flapHigh` "
        "the verdict itself may flap.")] = 0.20
    max_quarantined_share: Annotated[float, share(
        "Share of a model's workers that judgement may quarantine at once. Lower keeps capacity when all of "
        "them err; higher keeps more bad workers out.")] = 0.5
    panic_share: Annotated[float, share(
        "When judgement leaves a model fewer routable workers than this share of those it has, the ones in "
        "quarantine by judgement get work, slowly, instead of requests being refused; 0 refuses. Lower "
        "spares calls that a bad worker would fail; higher spares the few good ones the whole load.")] = 0.25
    max_probe_rate: Annotated[int, count(1, 100_000,
        "Full health probes a second over all workers; beyond it each waits longer, one in doubt goes first. "
        "Fewer costs less; more asks large fleets as often as small ones.")] = 100


class BalancingSettings(Section, frozen=True):
    """What the balancing strategies remember."""

    latency_half_life: Annotated[int, ms(1, HOUR,
        "Half-life of a worker's latency average. Shorter follows changes; longer smooths.")] = 10_000
    session_load_bound: Annotated[float, Meta(ge=1, le=100, description=
        "Multiple of the mean load at which `consistent-hash` sends a session elsewhere. Lower is more even; "
        "higher keeps more sessions where they are.")] = 1.25
    prefix_load_gap: Annotated[int, count(0, 1_000_000,
        "Requests that a worker which knows a prompt may have beyond the least loaded and still get it from "
        "`prefix-aware`. Fewer is more even; more uses caches better.")] = 2


class RoutingSettings(Section, frozen=True):
    """What happens to a request when no worker is free, or one fails."""

    queue_limit: Annotated[int, count(0, 1_000_000,
        "Requests a model that may wait for a worker while all are full; 0 refuses at once. Fewer tells "
        "callers the truth early; more rides out a longer burst.")] = 256
    queue_total: Annotated[int, count(1, 1_000_000,
        "Requests that may wait for a worker over all models. Fewer bounds what they hold, each its whole "
        "body; more keeps busy models from taking the room of others.")] = 4096
    queue_timeout: Annotated[int, ms(0, DAY,
        "How long a request may wait for a worker, within its own deadline. Shorter refuses in time for the "
        "caller to go elsewhere; longer suits models that take long for each answer.")] = 30_000
    load_timeout: Annotated[int, ms(1, DAY,
        "How long a rack may take to load a model; a request that waits for it waits so much longer than "
        "`queueTimeout`. Shorter tries another rack sooner; longer suits large models.")] = 300_000
    start_grace: Annotated[int, ms(0, HOUR,
        "How long after its start an orchestrator lets requests wait for models that nobody serves yet, "
        "unless the racks that it knew are back before. Shorter says sooner that a model is not there; "
        "longer forgives racks that are found slowly.")] = 3000
    retry_budget_share: Annotated[float, share(
        "Retries allowed as a share of the last 10 s of requests. Lower protects a struggling mesh from "
        "retry storms; higher hides more failures.")] = 0.2
    retry_budget_min: Annotated[int, count(0, 100_000,
        "Retries per second that are always allowed, so that quiet services can retry at all. Lower is "
        "stricter; higher adds load exactly when workers fail.")] = 3
    hedge_share: Annotated[float, share(
        "Requests that may be sent to a second worker too, when the first has given nothing for longer than "
        "95 % of the model's requests take, as a share of all; 0: never. Lower saves work; higher hides "
        "more slow workers.")] = 0.05
    resume_bytes: Annotated[int, size(0, 393_216,
        "What is kept of each stream that could go on at another rack, in bytes; a longer one can not any "
        "more. 0 keeps nothing. Lower saves memory; higher moves longer answers. It travels in one message.")
    ] = 262_144
    resume_total: Annotated[int, size(0, 2**40,
        "The same for all streams together. Lower saves memory; higher keeps more streams movable.")
    ] = 67_108_864
    stream_idle_timeout: Annotated[int, ms(1, DAY,
        "Silence of a stream, whose reader wants more, after which it ends in an error. Shorter notices a "
        "hung model sooner; longer forgives one that thinks between tokens.")] = 60_000
    aliases: Annotated[Aliases, says(
        "Further names of models: alias to model, or to another alias. Holds whatever racks offer, also for "
        "a model that is really called so. Suits tools that insist on a name.")] = {}
    fallbacks: Annotated[Fallbacks, says(
        "Model to a list of up to 8 models that answer in its place, in this order, when no worker can take "
        "a request for it. More answers more often; what answers is another model.")] = {}


class IdempotencySettings(Section, frozen=True):
    """What a rack keeps for requests that come again with the same idempotency key."""

    keep_time: Annotated[int, ms(1, DAY,
        "How long a finished answer is kept. Shorter frees memory sooner; longer than callers go on trying "
        "makes sure that what comes again does not run again.")] = 600_000
    keep_bytes: Annotated[int, size(65_536, 1_099_511_627_776,
        "Bytes of answers, running and finished, that are kept; the oldest give way. Smaller runs more "
        "again; larger keeps long answers, and more of them, in the memory beside the model.")] = 67_108_864


class HttpSettings(Section, frozen=True):
    """The HTTP face of the standalone service."""

    interface: Annotated[Interface, says(
        "Where HTTP listens; RPC has the setting `interface`. On 127.0.0.1 only this machine asks, without "
        "a key; any other address wants API keys (`wrk key add NAME`) and TLS.")] = "127.0.0.1"
    allowed_hosts: Annotated[list[HostName], Meta(max_length=256, description=
        "Further names that callers may use for this server, where no key is asked for: localhost and its "
        "address always pass. Any other name may be a web page that was lent our address.")] = []
    tls_certificate: Annotated[FilePath, says(
        "File with the certificate chain for HTTPS, PEM; with `http.tlsKey`. It keeps keys and prompts from "
        "whoever listens on the network.")] = ""
    tls_key: Annotated[FilePath, says(
        "File with the private key of `http.tlsCertificate`, PEM; nobody but its owner may read it.")] = ""
    without_tls: Annotated[bool, says(
        "Serve other machines without TLS. Keys and prompts are then readable on the way, which suits only "
        "a network where something else encrypts (a VPN, a proxy).")] = False
    without_keys: Annotated[bool, says(
        "Serve other machines without API keys. Whoever reaches the port may then use every model; "
        "registering and removing workers still takes the admin key.")] = False
    body_limit: Annotated[int, size(1024, 1_073_741_824,
        "Longest request body; a longer one is refused with 413. Smaller bounds memory per request; larger "
        "admits images and long contexts.")] = 16_777_216
    header_timeout: Annotated[int, ms(10, HOUR,
        "How long a caller may take for a request line and headers, from its connection or their first "
        "byte. Shorter frees what slow callers hold sooner; longer forgives a bad network.")] = 10_000
    body_timeout: Annotated[int, ms(10, HOUR,
        "How long a body may take, and a second more for each 64 KiB that arrived. Shorter frees what slow "
        "callers hold sooner; longer forgives a network that stalls.")] = 10_000
    write_timeout: Annotated[int, ms(10, HOUR,
        "How long a caller may take nothing of an answer that waits for it before it is cut off. Shorter "
        "bounds what deaf callers hold; longer forgives a reader that pauses.")] = 10_000
    inference_timeout: Annotated[int, ms(1, DAY,
        "Deadline of a request to /v1; of a stream: of its first item. OpenAI's clients wait ten minutes. "
        "Shorter frees them from a stuck model; longer lets slow models finish.")] = 600_000
    stream_keep_alive: Annotated[int, ms(100, HOUR,
        "Silence of a stream to a caller of /v1 after which a comment is sent, which clients skip. Shorter "
        "pleases impatient proxies; longer keeps the status of a late failure.")] = 15_000
    idle_timeout: Annotated[int, ms(10, HOUR,
        "How long a connection may rest between two requests. Shorter frees descriptors; longer than "
        "clients keep theirs lets them close first, and no request is lost.")] = 75_000
    max_connections: Annotated[int, count(1, 65_536,
        "Connections open at once; beyond it the one idle longest is closed, and if none is idle the new "
        "one refused. Fewer saves descriptors; more serves more callers.")] = 4096
    shutdown_timeout: Annotated[int, ms(0, HOUR,
        "How long open HTTP requests may take to end when the service stops. Shorter is gone sooner; longer "
        "cuts off fewer callers.")] = 2000


class ModelServerSettings(Section, frozen=True):
    """Where `wrk up` and `wrk rack openai` look for model servers that run already."""

    addresses: Annotated[list[ServerPort | ServerUrl], Meta(max_length=64, description=
        "Who is asked for a list of models: ports of this machine, or URLs. Those of Ollama, LM Studio, vLLM "
        "and llama.cpp are preset. More finds more and asks more strangers; an empty list asks none.")] = (
        msgspec.field(default_factory=lambda: [11434, 1234, 8000, 8080]))
    interval: Annotated[int, ms(100, DAY,
        "Period after which `wrk up` looks again while it runs. Shorter finds a server sooner that starts "
        "later; longer asks strangers on these ports less often.")] = 10_000


class StopSettings(Section, frozen=True):
    """How a process ends."""

    drain_timeout: Annotated[int, ms(0, HOUR,
        "How long requests in flight may finish after a stop was asked for. Shorter restarts sooner; longer "
        "loses fewer answers.")] = 10_000


class LogSettings(Section, frozen=True):
    """What is logged and how it looks."""

    format: Annotated[LogFormat, says(
        "json: one object a line, for machines; pretty: for people; auto: pretty on a terminal, json "
        "elsewhere.")] = "auto"
    level: Annotated[LogLevel, says(
        "Least severe level that is logged; auto: info, or debug with `debug`. Lower shows more and costs "
        "more; higher hides what led up to a fault.")] = "auto"
    bodies: Annotated[bool, says(
        "Log what racks are asked and what they answer, shortened: to find a fault, on data that may be "
        "seen. Off, no prompt reaches a log. On, nothing is held back by `sameEvents`.")] = False
    same_events: Annotated[int, count(1, 1_000_000,
        "Events of one kind that are logged in a second; further ones are counted, and told in one line. "
        "Fewer keeps a storm from the disk; more shows each of many. At level debug all are logged.")] = 20


class Settings(Section, frozen=True):
    """Settings of one process."""

    debug: Annotated[bool, says(
        "Log at debug level unless `log.level` says otherwise. Costs speed and disk.")] = False
    port: Annotated[Port, says(
        "TCP port of the HTTP service; 0: chosen by the kernel. A fixed port is easy to call; 0 never "
        "collides.")] = 8003
    interface: Annotated[Interface, says(
        "Where RPC listens and what is announced: auto is the LAN if there is one, 127.0.0.1 stays on this "
        "machine. Nobody but members gets in, wherever it listens.")] = "auto"
    load_balancing_strategy: Annotated[Strategy, says(
        "How one of several workers is chosen. round-robin is even and predictable; the load-aware ones "
        "suit uneven requests or machines; consistent-hash keeps sessions together, prefix-aware prompts "
        "that begin alike.")] = "round-robin"
    health_check_interval: Annotated[int, ms(10, HOUR,
        "Period of the full health probe of each worker; shortened by itself for one in doubt. Shorter sees "
        "trouble sooner; longer costs workers less.")] = 5000
    service_discovery_interval: Annotated[int, ms(10, HOUR,
        "Period of the sweep that looks again at everything discovered. Shorter heals a missed announcement "
        "sooner; longer is quieter.")] = 10_000
    request_timeout: Annotated[int, ms(1, DAY,
        "Deadline of a routed request that names none. Shorter frees callers of a stuck worker; longer lets "
        "slow models finish.")] = 60_000
    worker_timeout: Annotated[int, ms(10, DAY,
        "Silence after which a registration ends. Shorter forgets the dead sooner; longer keeps workers "
        "across an outage of the network.")] = 30_000
    max_retries: Annotated[int, count(0, 100,
        "Further workers tried for one request. Fewer fails sooner; more hides more failures and adds load "
        "while workers fail.")] = 3
    enable_failover: Annotated[bool, says(
        "Try another worker at all when one fails before it answered. Off shows every failure to the "
        "caller, which suits callers with retries of their own.")] = True
    max_workers_per_model: Annotated[int, count(0, 1_000_000,
        "Registrations accepted per model; 0: no cap. A cap bounds what one model can take up; none needs "
        "no upkeep.")] = 0
    pool_linger: Annotated[int, ms(0, DAY,
        "How long an idle link to a peer stays open. Shorter frees descriptors; longer spares the next call "
        "a handshake.")] = 300_000
    rpc: RpcSettings = RpcSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    health: HealthSettings = HealthSettings()
    balancing: BalancingSettings = BalancingSettings()
    routing: RoutingSettings = RoutingSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    http: HttpSettings = HttpSettings()
    model_servers: ModelServerSettings = ModelServerSettings()
    stop: StopSettings = StopSettings()
    log: LogSettings = LogSettings()

# fmt: on

ORDERED = (
    ("rpc.redialMin", "at most", "rpc.redialMax"),
    ("health.quarantineMin", "at most", "health.quarantineMax"),
    ("health.flapLow", "below", "health.flapHigh"),
    ("health.heartbeatInterval", "below", "health.silenceTimeout"),
)
"""Pairs of settings that bound each other; the loader checks them once all sources are merged."""


def schema() -> dict[str, Any]:
    """The JSON schema of a settings file: `config/schema.json`, for editors and checks before a start.

    Sections of worker classes are admitted as objects, since only their own process knows them.
    """
    page = msgspec.json.schema(Settings)
    for definition in page["$defs"].values():
        for field in definition["properties"].values():
            if field.get("type") == "boolean":
                field |= {"type": ["boolean", "integer"], "enum": [True, False, 1, 0]}
    top = page["$defs"]["Settings"]
    top["properties"]["$schema"] = {"description": "Where this schema is, for editors.", "type": "string"}
    top["additionalProperties"] = {"type": "object"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **page}
