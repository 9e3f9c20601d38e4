"""Settings of the whole test run: how hypothesis looks for examples.

No deadline anywhere, because a busy machine is no defect. In continuous integration the examples are
the same in every run, so that a red run means a change; elsewhere new ones are tried each time.
"""

import os

from hypothesis import settings

settings.register_profile("wrk", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("wrk")
