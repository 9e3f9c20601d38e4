"""Settings of the whole test run: hypothesis, how many tests run at a time, and that Ctrl-C is heard.

No deadline anywhere, because a busy machine is no defect. In continuous integration the examples are
the same in every run, so that a red run means a change; elsewhere new ones are tried each time.
"""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("wrk", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("wrk")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: object) -> int:
    """One more than there are cores, as many tests wait for other processes or for a network."""
    return min((os.cpu_count() or 1) + 1, 8)


# A shell that starts the tests in the background has them ignore SIGINT, and all their children with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
