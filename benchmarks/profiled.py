"""Run the gateway and note where the CPU time of its event loop's thread goes.

    python -m benchmarks.profiled STATS [OPTION...]

The options are those of the gateway. STATS is written when it stops, for pstats. Time is that of
the thread, not of the clock: what a call waits for, such as the interpreter's lock, is not its own.
"""

from __future__ import annotations

import contextlib
import cProfile
import sys
import time

from service.__main__ import main


def run(stats: str) -> None:
    """Serve until a signal comes, then write what was noted."""
    profile = cProfile.Profile(time.thread_time)
    with contextlib.suppress(SystemExit):
        profile.runcall(main)
    profile.dump_stats(stats)


if __name__ == "__main__":
    run(sys.argv.pop(1))
