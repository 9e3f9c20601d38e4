"""Log events with facts: JSON lines for machines, readable lines on a terminal.

    log.info("worker.joined", worker="r1-0123abcd", models=3)

An event is a dotted name in the past tense, its facts are numbers and texts, never payloads or keys.
The invariant: logging never raises, never waits and never ends the process, whatever became of the
reader at the other end. A line that cannot be written at once is dropped, and the next one that gets
through says how many were (`lost_lines`). Nor do many events of one kind fill the disk: the first of each
second are logged, and the others counted (`suppressed`).
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from . import clock
from .log_throttle import Throttle

A_WHILE = 1.0  # second
SUMMARY = "log.suppressed"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
Event = MutableMapping[str, Any]


def configure(
    *,
    format: str,
    level: str,
    stream: TextIO | None = None,
    most: int | None = None,
    now: Callable[[], float] = clock.monotonic,
) -> Calm:
    """Set up logging of this process, also that of libraries (`logging`, warnings and above).

    `format` is auto, json or pretty; `level` debug, info, warning or error; `stream` defaults to
    standard error. Of events of one kind `most` are logged in a second (None: all); whoever asks for it
    calls `sum_up` of what is returned once in a while. To be called before the first event: loggers keep
    what they found at first use.
    """
    calm = Calm(most, now)
    stream = sys.stderr if stream is None else stream
    pretty = format == "pretty" or (format == "auto" and stream.isatty())
    structlog.configure(
        processors=[structlog.processors.add_log_level, calm, _stamp, *_renderers(stream, pretty)],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_one(_Sink(stream)),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Forward)] + [_Forward()]
    root.setLevel(logging.WARNING)
    return calm


def get_logger(**facts: str | int) -> FilteringBoundLogger:
    """A logger whose events all carry `facts`. Before `configure` it waits for its first use to be made."""
    logger: FilteringBoundLogger = structlog.get_logger(**facts)
    # An event that is filtered out costs the lazy logger six times as much as a real one.
    return logger.bind() if structlog.is_configured() else logger


class Calm:
    """Lets the first events of a kind pass, and counts the rest. Who asks for debug asks for all of it.

    A kind is an event's name; of errors also the class of the exception, so that the first of each is seen.
    """

    def __init__(self, most: int | None, now: Callable[[], float]) -> None:
        self._throttle = None if most is None else Throttle(most, A_WHILE)
        self._now = now

    def __call__(self, _sink: _Sink, _method: str, event: Event) -> Event:
        if self._throttle is None or event["level"] == "debug" or event["event"] == SUMMARY:
            return event
        facts = self._throttle.facts(_kind(event), self._now())
        if facts is None:
            raise structlog.DropEvent
        event.update(facts)
        return event

    def sum_up(self) -> None:
        """Log how many were not, of each kind that has gone quiet since."""
        for kind, suppressed in () if self._throttle is None else self._throttle.due(self._now()):
            get_logger().warning(SUMMARY, kind=kind, suppressed=suppressed)


def _kind(event: Event) -> str:
    name, error = str(event["event"]), event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        return f"{name} {type(error).__name__}"
    return f"{name} {event['library']}" if "library" in event else name


class _Sink:
    """Writes lines and forgets what it cannot write.

    Below the stream's own buffer where there is a descriptor: after a failed write Python would keep the
    bytes, and end the process with code 120 for not getting rid of them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._poll = select.poll()
        if self._descriptor >= 0:
            self._poll.register(self._descriptor, select.POLLOUT)
        self._torn = False
        self.lost = 0

    def msg(self, line: str) -> None:
        try:
            self._write(line + "\n")
            self.lost = 0
        except (OSError, ValueError):  # ValueError: the stream is closed, or cannot encode the text
            self.lost += 1

    debug = info = warning = error = critical = msg

    def _write(self, text: str) -> None:
        if self._descriptor < 0 or self._stream.closed:  # closed: its number may be another file's by now
            self._stream.write(text)
            self._stream.flush()
            return
        data = (b"\n" if self._torn else b"") + text.encode("utf-8", "backslashreplace")
        for start in range(0, len(data), select.PIPE_BUF):
            # A ready pipe has room for PIPE_BUF bytes, so that this write does not wait.
            chunk = data[start : start + select.PIPE_BUF]
            if not self._poll.poll(0):
                raise BlockingIOError
            written = os.write(self._descriptor, chunk)
            self._torn = True
            if written < len(chunk):
                raise BlockingIOError
        self._torn = False


def _descriptor(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream in memory
        return -1


def _one(sink: _Sink) -> Any:
    return lambda *_: sink


class _Forward(logging.Handler):
    """What libraries log, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        facts = {"library": record.name, "message": _message(record), "exc_info": record.exc_info}
        get_logger().log(level, "library.logged", **facts)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # its arguments do not fit
        return _text(record.msg)


def _stamp(sink: _Sink, _method: str, event: Event) -> Event:
    """The time, what was lost, and every fact as a number or a text."""
    for name, value in event.items():
        if name != "exc_info" and not isinstance(value, str | int | float | None):
            event[name] = _text(value)
    event["timestamp"] = _iso(clock.wall_ms())
    if sink.lost:
        event["lost_lines"] = sink.lost
    return event


def _iso(wall_ms: int) -> str:
    seconds, ms = divmod(wall_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # what cannot be told must not break the event
        return f"<{type(value).__name__}>"


def _json(_sink: _Sink, _method: str, event: Event) -> str:
    return json.dumps(event)


def _printable(_sink: _Sink, _method: str, event: Event) -> Event:
    """A peer's text must not steer the terminal, nor pass for a line of its own."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            keep = "\n" if name == "exception" else ""
            event[name] = "".join(c if c.isprintable() or c in keep else _escape(c) for c in value)
    return event


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _renderers(stream: TextIO, pretty: bool) -> list[Any]:
    if not pretty:
        return [structlog.processors.format_exc_info, _json]
    # Not the console's own tracebacks: they print local variables, and with them payloads and keys.
    # plain_traceback keeps structlog 25 from warning about that.
    console = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )
    return [structlog.processors.format_exc_info, _printable, console]
