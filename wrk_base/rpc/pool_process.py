"""The program of one process of the pool: calls come in as pickles, one at a time, results go back.

It is started as a new interpreter and imports no event loop, so that it is there in the time that Python
itself takes. Of its parent's it holds two ends and nothing else: that of the connection, and that of a
lifeline on which nothing is ever said; it closes with the parent. Only the parent speaks here, so that
pickle is no risk.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import pickle
import signal
import socket
import struct
from collections.abc import Callable
from io import BufferedRWPair
from threading import Thread
from typing import Any

from .. import errors

HEADER = struct.Struct("!Q")  # a frame: how many bytes of pickle follow
PROTOCOL = 5

BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[3:]; fds = map(int, sys.argv[1:3]); del sys.argv[1:]; "
    f"from {__name__} import main; main(*fds)"
)
"""For `python -c`, before two descriptors and the search path of modules."""


# --- frames


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def as_exception(error: BaseException, function: Callable[..., Any]) -> Exception:
    """What a future may carry and an event loop survives: `SystemExit` and its like become `Internal`."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = errors.Internal(f"{name_of(function)} ended with {error!r}")
    wrapped.__cause__ = error
    return wrapped


def check_importable(function: Callable[..., Any]) -> None:
    """Raises TypeError for a function that another process cannot find."""
    try:
        if getattr(function, "__module__", None) == "__main__":
            raise TypeError("it belongs to __main__, which a process does not have")
        pickle.dumps(function, PROTOCOL)
    except Exception as error:
        raise TypeError(
            f"{name_of(function)} cannot run in a process: {error}; "
            "allowed is a function at the top level of a module that can be imported"
        ) from error


def pack_call(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """Raises `Internal` for a function and `BadRequest` for arguments that cannot go to a process."""
    try:
        packed = pickle.dumps((function, args), PROTOCOL)
        if getattr(function, "__module__", None) != "__main__":
            return packed
        problem = ""
    except Exception as error:  # whatever the objects' own code raises
        problem = f"{error}"
    try:
        check_importable(function)
    except TypeError as error:
        raise errors.Internal(str(error), not_started=True) from None
    raise errors.BadRequest(
        f"the arguments of {name_of(function)} cannot go to a process: {problem}; "
        "allowed is what pickle can carry: data, not open files, locks or connections",
        not_started=True,
    )


def unpack_outcome(frame: bytes | memoryview, name: str) -> tuple[Any, Exception | None]:
    """The value and the exception, one of them None, that the function `name` ended with."""
    try:
        worked, value = pickle.loads(frame)
    except Exception as error:
        return None, errors.Internal(f"the result of {name} cannot be read here: {error}")
    return (value, None) if worked else (None, value)


# --- the process


def main(connection: int, lifeline: int) -> None:
    """Serve calls until the parent closes the connection."""
    faulthandler.enable()  # a crash in foreign code says where, on standard error
    for number in (signal.SIGINT, signal.SIGTERM):
        # The parent alone decides. A handler, for what is ignored would stay so in programs run from here.
        signal.signal(number, lambda *_: None)
    for descriptor in (connection, lifeline):
        os.set_inheritable(descriptor, False)
    _end_with_parent(lifeline)
    with socket.socket(fileno=connection) as link, link.makefile("rwb") as stream:
        # A fork of ours that outlives us must not look like us to the parent.
        os.register_at_fork(after_in_child=lambda: os.close(link.detach()))
        while frame := _read(stream):
            outcome = _run(frame)
            stream.write(HEADER.pack(len(outcome)) + outcome)
            stream.flush()


def _end_with_parent(lifeline: int) -> None:
    """Die with the parent, with all that was started from here, in the middle of whatever runs.

    Linux ends us by SIGIO even in code that never lets go of the interpreter's lock; where that signal
    is ignored by default (macOS), and for a parent that is gone already, the thread does it. The lifeline
    is a pipe, because no SIGIO comes for a socket that a thread waits for.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    Thread(target=_await_end, args=(lifeline,), daemon=True).start()


def _await_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def _read(stream: BufferedRWPair) -> bytes:
    header = stream.read(HEADER.size)
    return stream.read(HEADER.unpack(header)[0]) if len(header) == HEADER.size else b""


def _run(frame: bytes) -> bytes:
    try:
        function, args = pickle.loads(frame)
    except BaseException as error:  # whatever the import of the author's module does
        return _failed(errors.Internal(f"the call cannot be read in a process: {error!r}"), error)
    try:
        value = function(*args)
    except BaseException as error:
        return _failed(as_exception(error, function), error)
    try:
        return pickle.dumps((True, value), PROTOCOL)
    except Exception as error:
        return _failed(
            errors.Internal(
                f"the result of {name_of(function)} cannot leave its process: {error}; "
                "allowed is what pickle can carry: data, not open files, locks or connections"
            ),
            error,
        )


def _failed(error: Exception, cause: BaseException) -> bytes:
    """The error with its traceback as a note, which is all of it that can travel."""
    import traceback

    text = "".join(traceback.format_exception(cause)).rstrip()
    try:
        error.add_note(f"in the process {os.getpid()}:\n{text}")
        packed = pickle.dumps((False, error), PROTOCOL)
        pickle.loads(packed)  # an exception with a constructor of its own often fails only here
    except Exception:
        packed = pickle.dumps((False, errors.Internal(f"{type(error).__name__}: {error}\n{text}")), PROTOCOL)
    return packed
