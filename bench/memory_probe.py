"""`python -m bench.memory_probe`: train two steps with one of the sides.

Prints the memory that this took, as JSON; the sides are told apart by `--side`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

NUM_STEPS = 2  # the first one creates the optimizer's moments


def main() -> None:
    """Measure one side, which alone is imported."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=("ours", "peer"), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    options = parser.parse_args()
    step = _ours if options.side == "ours" else _peer
    loaded_bytes = step(options)
    peak_bytes = _peak_bytes()
    print(json.dumps({"peak_bytes": peak_bytes, "step_bytes": peak_bytes - loaded_bytes}))


def _ours(options: argparse.Namespace) -> int:
    """Train; returns the memory in use once the model is loaded."""
    from bench.batches import datums, equal_examples
    from bench.engines import EngineSide
    from bench.models import BenchModel

    model = BenchModel("", options.model, options.vocab_size, 1, 1, 1, 1)
    side = EngineSide(model)
    data = datums(equal_examples(options.count, options.length, options.vocab_size))
    loaded_bytes = _resident_bytes()
    for _ in range(NUM_STEPS):
        side.train_step({side.adapter_ids[0]: data})
    return loaded_bytes


def _peer(options: argparse.Namespace) -> int:
    """The same with the bare loop."""
    from bench.batches import equal_examples
    from bench.peer import Peer

    peer = Peer.fresh(options.model, rank=32, learning_rate=1e-4)
    examples = equal_examples(options.count, options.length, options.vocab_size)
    loaded_bytes = _resident_bytes()
    for _ in range(NUM_STEPS):
        peer.train_step(examples)
    return loaded_bytes


def _peak_bytes() -> int:
    """Largest resident set of this process since it was started.

    On Linux `ru_maxrss` starts from the size of the process that started this one, so the kernel's
    own mark is read instead.
    """
    mark = _status_bytes("VmHWM")
    if mark is not None:
        return mark
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _resident_bytes() -> int:
    """Resident set now; where the system does not say, the largest so far."""
    return _status_bytes("VmRSS") or _peak_bytes()


def _status_bytes(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


if __name__ == "__main__":
    main()
