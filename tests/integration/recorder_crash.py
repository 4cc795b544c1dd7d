"""A writer for crash tests: logs as fast as it may and notes what was acknowledged.

    python recorder_crash.py STORE RUN_ID DURABILITY SHARED_FILE

The shared file holds one 8-byte time for each step, that of its acknowledgement; it is mapped, so
that what was noted survives SIGKILL.
"""

import mmap
import struct
import sys
import time

from tinsmith import telemetry

MAX_STEPS = 400_000


def main() -> None:
    store, run_id, durability, shared = sys.argv[1:]
    with open(shared, "r+b") as file:
        noted = mmap.mmap(file.fileno(), 8 * MAX_STEPS)
    run = telemetry.init(store=store, run_id=run_id, durability=durability)  # type: ignore[arg-type]
    for step in range(MAX_STEPS):
        run.log({"a": float(step)}, step=step)
        struct.pack_into("<q", noted, 8 * step, time.monotonic_ns())


if __name__ == "__main__":
    main()
