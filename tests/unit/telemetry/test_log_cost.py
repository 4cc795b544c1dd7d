"""What `log` costs its caller: CPU time, which other processes on the machine hardly change."""

import gc
import time
from pathlib import Path

from tinsmith import telemetry

NUM_CALLS = 20_000


def cost(folder: Path) -> tuple[float, float, float]:
    """CPU of 20,000 calls with two values each: median and p99 in us, all in s.

    "All" is what the whole process used, writer thread included, until everything was committed.
    """
    times = [0] * NUM_CALLS
    clock = time.thread_time_ns
    with telemetry.init(store=folder) as run:
        run.log({"loss": 0.0, "lr": 0.0}, step=-1)
        assert run.flush()
        gc.collect()
        before = time.process_time()
        for step in range(NUM_CALLS):
            started = clock()
            run.log({"loss": 1.0 / (step + 1), "lr": 1e-4}, step=step)
            times[step] = clock() - started
        assert run.flush()
        total = time.process_time() - before
    assert run.health == {}
    assert len(run.store.points(run.run_id)) == 2 * (NUM_CALLS + 1)
    times.sort()
    return times[NUM_CALLS // 2] / 1e3, times[NUM_CALLS * 99 // 100] / 1e3, total


def test_log_costs_under_2_us_at_the_median_and_0_2_s_in_20_000_calls(tmp_path: Path) -> None:
    # The best of three: another program can only make it slower.
    median, p99, total = (min(one) for one in zip(*(cost(tmp_path) for _ in range(3)), strict=True))
    print(f"log: median {median:.2f} us, p99 {p99:.1f} us, 20,000 calls {total:.3f} s of CPU")
    assert median < 2.0
    assert p99 < 50.0
    assert total < 0.2
