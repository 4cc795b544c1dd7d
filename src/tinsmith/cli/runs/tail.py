"""`tinsmith runs tail`: what is recorded, as it comes."""

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.runs.choosing import find_run, opened_store, store_option
from tinsmith.cli.runs.plots import number_text
from tinsmith.cli.runs.views import to_json

if TYPE_CHECKING:
    from tinsmith.telemetry.model import Batch, Cursor
    from tinsmith.telemetry.stores import Store

__all__ = ["tail"]

WAIT_S = 0.5
ENDED = ("finished", "failed", "crashed", "archived")


@click.command("tail")
@click.argument("run")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Begin with so many of the last steps; 0 begins with what comes.",
)
@click.option("--follow/--no-follow", default=True, help="Wait for more until the run ends.")
@click.option("-k", "--key", "keys", multiple=True, help="Only this metric; may be repeated.")
@store_option
@json_option
def tail(
    run: str, last: int, follow: bool, keys: tuple[str, ...], store: str | None, as_json: bool
) -> None:
    """Follow a run: a line a step, and a line an event; --json: one object a line."""
    with opened_store(store) as opened:
        record = find_run(opened, run)
        for batch in _batches(opened, record.run_id, last, follow=follow):
            for line in _json_lines(batch, keys) if as_json else _lines(batch, keys):
                print(line)
            sys.stdout.flush()


def _batches(store: "Store", run_id: str, last: int, *, follow: bool) -> "Iterator[Batch]":
    cursor, start = _end_of(store, run_id, last)
    if start is not None:
        yield start
    while follow:
        # The state is read before the tail, so that what came before the end is not missed.
        is_over = str(store.get_run(run_id).status) in ENDED
        batch, cursor = store.tail(run_id, cursor)
        if len(batch):
            yield batch
        elif is_over:
            return
        else:
            time.sleep(WAIT_S)


def _end_of(store: "Store", run_id: str, last: int) -> "tuple[Cursor, Batch | None]":
    """Return the cursor of now, and a batch of the last steps and the events among them."""
    from tinsmith.telemetry.model import Batch, Cursor

    cursor = Cursor()
    while True:
        batch, later = store.tail(run_id, cursor)
        if not len(batch):
            break
        cursor = later
    if last == 0:
        return cursor, None
    points = store.points(run_id)
    if not len(points):
        return cursor, None
    import numpy as np

    steps = np.unique(points.step)[-last:]
    points = points.take(points.step >= steps[0])
    events = tuple(store.events(run_id, since_ns=int(points.ts_ns.min())))
    return cursor, Batch(points=points, events=events)


def _lines(batch: "Batch", keys: tuple[str, ...]) -> Iterator[str]:
    steps: dict[tuple[int, int], list[str]] = {}
    for key, step, rank, _, _, value in batch.points.rows():
        if not keys or key in keys:
            steps.setdefault((step, rank), []).append(f"{key}={number_text(value)}")
    several = len({rank for _, rank in steps}) > 1
    for (step, rank), told in sorted(steps.items()):
        yield f"step {step}{f' rank {rank}' if several else ''}  {'  '.join(told)}"
    for event in batch.events:
        told = [f"{name}={number_text(value)}" for name, value in event.measurements.items()]
        yield f"event {event.name}  {'  '.join(told)}".rstrip()
    for alert in batch.alerts:
        yield f"alert {alert.severity}: {alert.message}"


def _json_lines(batch: "Batch", keys: tuple[str, ...]) -> Iterator[str]:
    from tinsmith.telemetry.exchange.table import encode_json

    columns = ("key", "step", "rank", "attempt", "ts_ns", "value")
    for row in batch.points.rows():
        if not keys or row[0] in keys:
            point = encode_json(dict(zip(columns, row, strict=True)))
            yield json.dumps({"kind": "point", **point}, ensure_ascii=False)
    for kind in ("events", "samples", "artifacts", "alerts"):
        for record in getattr(batch, kind):
            yield json.dumps({"kind": kind[:-1], **to_json(record)}, ensure_ascii=False)
