"""`python -m bench`: measure, print one table, write JSON.

Exit status 0 when everything was measured, whether or not the targets are met (the table says so);
1 when a measurement failed; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.measurement import Measurement, Setting
from bench.results import REPOSITORY, Report, Row, machine_facts
from bench.table import print_report, write_readme

RESULTS = REPOSITORY / "bench" / "results"
GROUPS = (
    "training",
    "adapters",
    "service",
    "queueing",
    "sampling",
    "memory",
    "regularizers",
    "renderers",
    "recorder",
    "recorder-reads",
    "imports",
)
MODELS = ("tiny", "random")
WITHOUT_MODELS = {"imports", "queueing", "recorder", "recorder-reads", "regularizers", "renderers"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    is_whole = not (options.quick or options.only or options.model or options.rounds)
    if options.write_readme and not (is_whole or options.show):
        parser.error("--write-readme wants all measurements; leave out the other options")
    if options.show:
        report = Report.read(options.show)
    else:
        report = _measure(options)
        report.write(options.json or RESULTS / ("latest.json" if is_whole else "partial.json"))
    print_report(report, Console(width=None if sys.stdout.isatty() else 140))
    if options.write_readme:
        write_readme(report, REPOSITORY / "README.md")
    return 1 if report.has_failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure Tinsmith against transformers + PEFT."
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=GROUPS,
        help="one group of measurements; may be repeated",
    )
    parser.add_argument(
        "--model", action="append", choices=MODELS, help="one model; may be repeated"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small and single rounds: shows that everything runs, the figures mean nothing",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of every comparison")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the JSON goes")
    parser.add_argument(
        "--show", type=Path, metavar="PATH", help="measure nothing, show this JSON instead"
    )
    parser.add_argument(
        "--write-readme", action="store_true", help="put the table into README.md as well"
    )
    return parser


def _measure(options: argparse.Namespace) -> Report:
    groups = options.only or list(GROUPS)
    model_names = options.model or list(MODELS)
    started = time.perf_counter()
    report = Report(
        machine=machine_facts(),
        options={"groups": groups, "models": model_names, "quick": options.quick},
    )
    with tempfile.TemporaryDirectory(prefix="tinsmith-bench-") as directory:
        scratch = Path(directory)
        models = []
        if set(groups) - WITHOUT_MODELS:
            from transformers.utils import logging

            from bench.models import make_random_model, tiny_model

            logging.disable_progress_bar()
            if "tiny" in model_names:
                models.append(tiny_model(quick=options.quick))
            if "random" in model_names:
                models.append(make_random_model(scratch / "random", quick=options.quick))
        if options.rounds:
            wanted = {"rounds": options.rounds, "long_rounds": options.rounds}
            models = [replace(model, **wanted) for model in models]
        setting = Setting(models=models, scratch=scratch, quick=options.quick)
        for group in groups:
            report.rows += [_attempt(one) for one in _measurements(group)(setting)]
            gc.collect()  # the next group makes engines of its own
    report.duration_s = time.perf_counter() - started
    return report


def _measurements(group: str) -> Callable[[Setting], Iterator[Measurement]]:
    """The group's measurements; what a group needs is imported when it is asked for."""
    if group == "imports":
        from bench.imports import import_measurements as found
    elif group == "renderers":
        from bench.renderers import renderer_measurements as found
    elif group == "recorder":
        from bench.recorder import recorder_measurements as found
    elif group == "recorder-reads":
        from bench.recorder_reads import recorder_read_measurements as found
    elif group == "memory":
        from bench.memory import memory_measurements as found
    elif group == "service":
        from bench.service import service_measurements as found
    elif group == "queueing":
        from bench.queueing import queueing_measurements as found
    elif group == "regularizers":
        from bench.regularizers import regularizer_measurements as found
    elif group == "sampling":
        from bench.sampling import sampling_measurements as found
    elif group == "training":
        from bench.training import training_measurements as found
    else:
        from bench.training import adapter_measurements as found
    return found


def _attempt(measurement: Measurement) -> Row:
    """Measure; a failure becomes a row that says why."""
    where = f"{measurement.name}, {measurement.model}".removesuffix(", ")
    print(f"measuring {where}", file=sys.stderr, flush=True)
    try:
        return measurement.measure()
    except Exception as error:  # noqa: BLE001 - one measurement must not end the others
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Row(measurement.name, measurement.model, "", error=reason)


if __name__ == "__main__":
    sys.exit(main())
