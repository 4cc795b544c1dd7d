"""`tinsmith runs show`: one run on one screen."""

from collections import Counter
from typing import TYPE_CHECKING

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.runs.choosing import find_run, opened_store, store_option
from tinsmith.cli.runs.plots import number_text, sparkline, terminal_chart
from tinsmith.cli.runs.views import duration_text, moment, progress_words, to_json
from tinsmith.cli.tables import print_json, print_properties, print_table, relative_time
from tinsmith.core.errors import unknown_name

if TYPE_CHECKING:
    from tinsmith.telemetry.model import Attempt, PointColumns, RunRecord
    from tinsmith.telemetry.query.keys import KeySummary
    from tinsmith.telemetry.stores import Store

__all__ = ["show"]

CHARTED = ("nll", "loss", "reward", "score")
"""Metrics whose last part is one of these are drawn when none is asked for; `train/` first."""


@click.command("show")
@click.argument("run")
@click.option("-k", "--key", "keys", multiple=True, help="Draw this metric; may be repeated.")
@click.option(
    "--attempt",
    type=click.IntRange(1),
    help="Show the line of this attempt, as it was; default: the line that counts.",
)
@click.option("--config/--no-config", "with_config", default=False, help="Show the config, too.")
@store_option
@json_option
def show(
    run: str,
    keys: tuple[str, ...],
    attempt: int | None,
    with_config: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Show one run: its state, its attempts, every metric, and a chart.

    RUN is an id, a part of one, a name, or `latest`.
    """
    from tinsmith.telemetry.model import run_times
    from tinsmith.telemetry.query.keys import summarize_keys

    with opened_store(store) as opened:
        record = find_run(opened, run)
        run_id = record.run_id
        points = opened.points(run_id, attempt=attempt or "effective")
        summaries = summarize_keys(points, opened.keys(run_id))
        _require_known(keys, summaries)
        attempts = opened.attempts(run_id)
        times = run_times(opened.intervals(run_id))
        if as_json:
            print_json(
                {
                    "run": to_json(record),
                    "times": times._asdict(),
                    "attempts": [to_json(one) for one in attempts],
                    "metrics": [to_json(summary) for summary in summaries],
                    "events": dict(Counter(event.name for event in opened.events(run_id))),
                    "alerts": [to_json(alert) for alert in opened.alerts(run_id)],
                    "artifacts": [to_json(artifact) for artifact in opened.artifacts(run_id)],
                }
            )
            return
        _print_header(record, [("State", progress_words(record, attempts, times))], with_config)
        _print_attempts(attempts, opened, run_id)
        _print_metrics(summaries, points)
        _print_charts(keys or _default_keys(summaries), points)
        _print_rest(opened, run_id)


def _require_known(keys: tuple[str, ...], summaries: "list[KeySummary]") -> None:
    known = [summary.key for summary in summaries]
    for key in keys:
        if key not in known:
            raise unknown_name("metric", key, known)


def _print_header(record: "RunRecord", state: list[tuple[str, str]], with_config: bool) -> None:
    import json

    git = record.git
    code = "-" if git is None else git.revision[:12] + (" with changes" if git.is_dirty else "")
    told = [
        ("Run", f"{record.name}  ({record.run_id})"),
        ("Project", record.project),
        *state,
        ("Created", relative_time(moment(record.created_ns))),
        ("Group", record.group or ""),
        ("Condition", "" if record.condition == "default" else record.condition),
        ("Hypothesis", record.hypothesis or ""),
        ("Tags", ", ".join(record.tags)),
        ("Seed", "" if record.seed is None else str(record.seed)),
        ("Parent", record.parent_run or ""),
        ("Code", code),
        ("Command", " ".join(record.command)),
    ]
    if with_config:
        told.append(("Config", json.dumps(to_json(record)["config"], ensure_ascii=False)))
    print_properties([(name, value) for name, value in told if value and value != "-"])


def _print_attempts(attempts: "list[Attempt]", store: "Store", run_id: str) -> None:
    """Attempts matter where there is more than one, or where something was lost."""
    lost = {name: count for one in attempts for name, count in one.health.items() if count}
    if len({one.attempt for one in attempts}) < 2 and not lost:
        return
    points = store.points(run_id, attempt="all")
    rows: list[tuple[str, ...]] = []
    for one in attempts:
        steps = points.step[(points.attempt == one.attempt) & (points.rank == one.rank)]
        ended = one.ended_ns or one.heartbeat_ns
        rows.append(
            (
                str(one.attempt),
                str(one.rank),
                str(one.status) if one.ended_ns else "no end recorded",
                "-" if one.resumed_from_step is None else str(one.resumed_from_step),
                f"{steps.min()} to {steps.max()}" if len(steps) else "-",
                duration_text((ended - one.started_ns) / 1e9),
                ", ".join(f"{count} {name}" for name, count in one.health.items()) or "-",
            )
        )
    columns = ("Attempt", "Rank", "End", "From step", "Steps", "Time", "Lost")
    print_table("Attempts (--attempt N shows the line of one)", columns, rows)


def _print_metrics(summaries: "list[KeySummary]", points: "PointColumns") -> None:
    if not summaries:
        print("No metrics are recorded.")
        return
    codes = {name: code for code, name in enumerate(points.names)}
    rows = [
        (
            one.key,
            number_text(one.last),
            number_text(one.minimum),
            number_text(one.maximum),
            str(one.last_step),
            str(one.num_points),
            str(one.num_nonfinite) if one.num_nonfinite else "-",
            one.unit or "-",
            sparkline(points.value[points.key == codes[one.key]]),
        )
        for one in summaries
    ]
    columns = ("Metric", "Last", "Min", "Max", "At step", "Points", "NaN/Inf", "Unit", "Line")
    print_table(f"{len(rows)} metrics", columns, rows)


def _default_keys(summaries: "list[KeySummary]") -> tuple[str, ...]:
    """The first two losses or rewards with more than one point; else the first metric."""
    lines = [one.key for one in summaries if one.num_points > 1]
    wanted = [key for key in lines if key.rpartition("/")[2].lower() in CHARTED]
    wanted.sort(key=lambda key: not key.startswith("train"))
    return tuple(wanted[:2] or lines[:1])


def _print_charts(keys: tuple[str, ...], points: "PointColumns") -> None:
    codes = {name: code for code, name in enumerate(points.names)}
    for key in keys:
        is_key = points.key == codes[key]
        print(f"\n{key}")
        print("\n".join(terminal_chart(points.step[is_key], points.value[is_key])))


def _print_rest(store: "Store", run_id: str) -> None:
    counts = Counter(event.name for event in store.events(run_id))
    told = [
        ("Events", ", ".join(f"{count} {name}" for name, count in counts.most_common())),
        ("Samples", str(len(store.samples(run_id)) or "")),
        ("Artifacts", ", ".join(artifact.name for artifact in store.artifacts(run_id))),
        ("Alerts", "; ".join(alert.message for alert in store.alerts(run_id))),
    ]
    shown = [(name, value) for name, value in told if value]
    if shown:
        print()
        print_properties(shown)
