"""Logging: what a line looks like, what is left out, and that nothing at the other end can hurt."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from wrk_base import log

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The process's logging as it was before the test."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    root.handlers = [handler for handler in root.handlers if type(handler).__module__ != log.__name__]
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# --- lines


def test_an_event_is_one_json_line_with_its_facts_level_and_time(stream: io.StringIO) -> None:
    log.configure(format="json", level="info", stream=stream)
    log.get_logger(worker="r1").info("worker.joined", models=3, name="ä\n")
    (event,) = events(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("timestamp"))
    assert event == {"event": "worker.joined", "level": "info", "worker": "r1", "models": 3, "name": "ä\n"}
    assert stream.getvalue().count("\n") == 1


def test_auto_is_pretty_on_a_terminal_and_json_elsewhere(stream: io.StringIO) -> None:
    terminal = Terminal()
    for output in (terminal, stream):
        log.configure(format="auto", level="info", stream=output)
        log.get_logger().info("worker.joined")
    assert "\x1b[" in terminal.getvalue()
    assert events(stream)[0]["event"] == "worker.joined"


def test_pretty_off_a_terminal_has_no_colours(stream: io.StringIO) -> None:
    log.configure(format="pretty", level="info", stream=stream)
    log.get_logger().info("worker.joined", worker="r1")
    assert "\x1b[" not in stream.getvalue()
    assert re.search(r"\[info *\] worker\.joined +worker=r1\n", stream.getvalue())


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_less_severe_events_are_left_out(level: str, written: int, stream: io.StringIO) -> None:
    log.configure(format="json", level=level, stream=stream)
    logger = log.get_logger()
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(logger, name)("thing.happened")
    assert [event["level"] for event in events(stream)] == names[4 - written :]


def test_a_filtered_event_never_looks_at_its_facts(stream: io.StringIO) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("was looked at")

    log.configure(format="json", level="warning", stream=stream)
    log.get_logger().info("thing.happened", fact=Costly())
    assert stream.getvalue() == ""


def test_a_logger_made_before_the_set_up_follows_it(stream: io.StringIO) -> None:
    early = log.get_logger(worker="r1")
    log.configure(format="json", level="info", stream=stream)
    early.info("worker.joined")
    assert events(stream)[0]["worker"] == "r1"


def test_facts_become_numbers_and_texts_even_those_that_cannot_be_told(stream: io.StringIO) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    log.configure(format="json", level="info", stream=stream)
    logger = log.get_logger(bad="\ud800", data="x")
    logger.info("x.y", path=Path("/a"), items=[1], data=b"\xff", none=None, no=Broken())
    (event,) = events(stream)
    assert event["path"] == "/a"
    assert event["items"] == "[1]"
    assert event["data"] == "b'\\xff'"
    assert event["none"] is None
    assert event["no"] == "<Broken>"
    assert event["bad"] == "\ud800"


def test_a_peers_text_cannot_steer_the_terminal_nor_forge_a_line(stream: io.StringIO) -> None:
    log.configure(format="pretty", level="info", stream=stream)
    log.get_logger().info("x.y", name="a\n2026-01-01 [info] forged\x1b[2J\ud800")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "forged" in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "pretty"])
def test_a_traceback_shows_code_and_no_values(format: str, stream: io.StringIO) -> None:
    log.configure(format=format, level="info", stream=stream)

    def handler(prompt: str) -> None:
        raise ValueError("boo\x1b[2J")

    try:
        handler("a secret prompt")
    except ValueError:
        log.get_logger().error("handler.failed", exc_info=True)
    assert "in handler" in stream.getvalue()
    assert "ValueError: boo" in stream.getvalue()
    assert "secret prompt" not in stream.getvalue().replace('handler("a secret prompt")', "").replace(
        'handler(\\"a secret prompt\\")', ""
    )
    assert "\x1b" not in stream.getvalue()


# --- storms


class Hands:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


def test_a_storm_costs_some_lines_a_second_and_is_summed_up(stream: io.StringIO, clock: Hands) -> None:
    calm = log.configure(format="json", level="info", stream=stream, most=3, now=clock)
    for number in range(1000):
        log.get_logger().warning("link.lost", number=number)
    log.get_logger().info("worker.joined")
    calm.sum_up()
    clock.now = 1.0
    calm.sum_up()
    calm.sum_up()
    shown = [(event["event"], event.get("number"), event.get("suppressed")) for event in events(stream)]
    assert shown == [
        ("link.lost", 0, None),
        ("link.lost", 1, None),
        ("link.lost", 2, None),
        ("worker.joined", None, None),
        ("log.suppressed", None, 997),
    ]
    assert events(stream)[-1]["kind"] == "link.lost"


def test_a_storm_that_goes_on_says_so(stream: io.StringIO, clock: Hands) -> None:
    log.configure(format="json", level="info", stream=stream, most=1, now=clock)
    for second in range(3):
        clock.now = second
        for _ in range(10):
            log.get_logger().warning("link.lost")
    assert [event.get("suppressed") for event in events(stream)] == [None, 9, 9]


def test_the_first_of_each_error_is_seen_whatever_else_fails(stream: io.StringIO, clock: Hands) -> None:
    log.configure(format="json", level="info", stream=stream, most=2, now=clock)
    for error in [*[ValueError("a")] * 100, KeyError("b"), OSError("c")]:
        log.get_logger().error("handler.failed", exc_info=error)
    for library in ("one", *["one"] * 9, "two"):
        logging.getLogger(library).warning("trouble")
    seen = [event.get("exception", event.get("library")) for event in events(stream)]
    assert ["a" in text for text in seen[:2]] == [True, True]
    assert ["'b'" in seen[2], "c" in seen[3]] == [True, True]
    assert seen[4:] == ["one", "one", "two"]


def test_who_asks_for_debug_sees_everything(stream: io.StringIO, clock: Hands) -> None:
    log.configure(format="json", level="debug", stream=stream, most=1, now=clock)
    for _ in range(100):
        log.get_logger().debug("request.routed")
    assert len(events(stream)) == 100


def test_what_is_held_back_costs_no_look_at_its_facts(stream: io.StringIO, clock: Hands) -> None:
    class Costly:
        looks = 0

        def __str__(self) -> str:
            Costly.looks += 1
            return ""

    log.configure(format="json", level="info", stream=stream, most=1, now=clock)
    for _ in range(10):
        log.get_logger().info("x.y", fact=Costly())
    assert Costly.looks == 1


# --- libraries


def test_warnings_of_libraries_become_events_and_their_chatter_does_not(stream: io.StringIO) -> None:
    log.configure(format="json", level="debug", stream=stream)
    library = logging.getLogger("a_library")
    library.info("started")
    library.warning("port %d", 8003)
    library.log(35, "between the levels")
    misfit = library.makeRecord(library.name, logging.WARNING, "", 0, "port %d", ("x",), None)
    logging.getLogger().handlers[-1].handle(misfit)
    found = [(event["event"], event["level"], event["library"], event["message"]) for event in events(stream)]
    assert found == [
        ("library.logged", "warning", "a_library", "port 8003"),
        ("library.logged", "warning", "a_library", "between the levels"),
        ("library.logged", "warning", "a_library", "port %d"),
    ]


def test_a_librarys_exception_comes_with_its_traceback(stream: io.StringIO) -> None:
    log.configure(format="json", level="error", stream=stream)
    logging.getLogger("zeroconf").warning("left out at this level")
    try:
        raise ValueError("boo")
    except ValueError:
        logging.getLogger("zeroconf").exception("failed")
    (event,) = events(stream)
    assert event["message"] == "failed"
    assert "ValueError: boo" in event["exception"]


def test_a_second_set_up_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure(format="json", level="info", stream=first)
    log.configure(format="json", level="info", stream=second)
    logging.getLogger("zeroconf").warning("once")
    assert first.getvalue() == ""
    assert len(events(second)) == 1


# --- the other end


def test_a_closed_stream_is_no_error(stream: io.StringIO) -> None:
    log.configure(format="json", level="info", stream=stream)
    stream.close()
    log.get_logger().info("x.y")


def test_the_number_of_a_closed_descriptor_is_not_written_to_when_another_file_has_it(tmp_path: Path) -> None:
    with open(os.devnull, "w") as file:
        log.configure(format="json", level="info", stream=file)
        number = file.fileno()
    with (tmp_path / "other").open("w") as other:
        assert other.fileno() == number
        log.get_logger().info("x.y")
    assert (tmp_path / "other").read_text() == ""


def test_a_stream_that_fails_is_no_error_and_the_next_line_tells_what_was_lost() -> None:
    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    log.configure(format="json", level="info", stream=stream)
    for _ in range(3):
        log.get_logger().info("x.y")
    stream.full = False
    log.get_logger().info("x.z")
    log.get_logger().info("x.z")
    assert [event.get("lost_lines") for event in events(stream)] == [3, None]


def drain(reader: int) -> list[str]:
    found = b""
    while chunk := _read(reader):
        found += chunk
    return found.decode().splitlines()


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 16)
    except BlockingIOError:
        return b""


@pytest.fixture
def pipe() -> Iterator[tuple[int, Any]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with open(writer, "w") as stream:
        yield reader, stream
    os.close(reader)


def test_a_full_pipe_costs_lines_and_never_waits(pipe: tuple[int, Any]) -> None:
    reader, stream = pipe
    log.configure(format="json", level="info", stream=stream)
    for number in range(5000):
        log.get_logger().info("x.y", number=number)
    numbers = [json.loads(line)["number"] for line in drain(reader)]
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 5000
    log.get_logger().info("x.z")
    (line,) = drain(reader)
    assert json.loads(line)["lost_lines"] == 5000 - len(numbers)


def test_a_long_line_that_a_full_pipe_tears_does_not_spoil_the_next_one(pipe: tuple[int, Any]) -> None:
    reader, stream = pipe
    log.configure(format="json", level="info", stream=stream)
    log.get_logger().info("x.y", text="a" * 1_000_000)
    log.get_logger().info("x.z")
    assert len(drain(reader)) == 1
    log.get_logger().info("x.z")
    torn, whole = drain(reader)
    assert torn == ""
    assert json.loads(whole)["lost_lines"] == 2


def test_a_long_line_arrives_whole_while_there_is_room(pipe: tuple[int, Any]) -> None:
    reader, stream = pipe
    log.configure(format="json", level="info", stream=stream)
    log.get_logger().info("x.y", text="a" * 20_000)
    (line,) = drain(reader)
    assert json.loads(line)["text"] == "a" * 20_000


TALKER = """
from wrk_base import log
log.configure(format="json", level="info")
for number in range(5000):
    log.get_logger().info("x.y", number=number)
print("done")
"""


def talk(stderr: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", TALKER]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=False)


def test_a_reader_that_left_neither_ends_the_process_nor_spoils_its_exit_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = talk(writer)
    os.close(writer)
    assert (done.stdout, done.returncode) == (b"done\n", 0)


def test_a_reader_that_stands_still_does_not_stop_the_process() -> None:
    reader, writer = os.pipe()
    done = talk(writer)
    os.close(writer)
    os.close(reader)
    assert (done.stdout, done.returncode) == (b"done\n", 0)
