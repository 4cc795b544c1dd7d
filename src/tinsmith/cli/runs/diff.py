"""`tinsmith runs diff`: in what two runs differ."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.runs.choosing import find_run, opened_store, short_id, store_option
from tinsmith.cli.runs.plots import number_text
from tinsmith.cli.runs.views import to_json
from tinsmith.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from tinsmith.telemetry.model import RunRecord
    from tinsmith.telemetry.query.keys import KeySummary
    from tinsmith.telemetry.stores import Store

__all__ = ["diff", "flat"]

ABSENT = "-"
FIELDS = ("group", "job", "condition", "hypothesis", "tags", "seed", "command", "parent_run")


@click.command("diff")
@click.argument("first")
@click.argument("second")
@store_option
@json_option
def diff(first: str, second: str, store: str | None, as_json: bool) -> None:
    """Say in what two runs differ: config, code, description, and where each metric ended.

    Two single runs are no evidence that a setting is better: their difference may be the seed's.
    """
    with opened_store(store) as opened:
        runs = [find_run(opened, text) for text in (first, second)]
        settings = differing_settings(*runs)
        metrics = _metrics(opened, runs)
    if as_json:
        print_json(
            {
                "runs": [run.run_id for run in runs],
                "settings": {name: list(values) for name, values in settings.items()},
                "metrics": metrics,
            }
        )
        return
    names = [f"{run.name} ({short_id(run.run_id)})" for run in runs]
    rows = [(name, _text(one), _text(other)) for name, (one, other) in settings.items()]
    print_table(
        f"{len(rows)} settings differ" if rows else "No setting differs.", ("Setting", *names), rows
    )
    table = [
        (
            row["key"],
            *(number_text(None if value is None else float(value)) for value in row["last"]),
            number_text(None if row["change"] is None else float(row["change"])),
            *(ABSENT if step is None else str(step) for step in row["last_step"]),
        )
        for row in metrics
    ]
    print_table(
        f"{len(table)} metrics, last value",
        ("Metric", *names, "Change", "At step", "At step "),
        table,
    )


def differing_settings(first: "RunRecord", second: "RunRecord") -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, as (first, second); None where one has none."""
    sides = [_settings(run) for run in (first, second)]
    names = sorted(set(sides[0]) | set(sides[1]))
    return {
        name: (sides[0].get(name), sides[1].get(name))
        for name in names
        if sides[0].get(name) != sides[1].get(name)
    }


def _settings(run: "RunRecord") -> dict[str, Any]:  # Any: what JSON can say
    told = to_json(run)
    settings = {name: told[name] for name in FIELDS}
    git = told["git"] or {}
    settings["git.revision"] = git.get("revision")
    settings["git.diff"] = git.get("diff")
    config = flat(told["config"], "config") if told["config"] else {}
    return {**settings, **config}


def flat(value: Any, prefix: str) -> dict[str, Any]:  # Any: what JSON can say
    """Return the leaves of nested mappings under dotted names."""
    if isinstance(value, Mapping) and value:
        parts = [flat(inner, f"{prefix}.{name}") for name, inner in value.items()]
        return {name: leaf for part in parts for name, leaf in part.items()}
    return {prefix: value}


def _metrics(store: "Store", runs: "list[RunRecord]") -> list[dict[str, Any]]:
    from tinsmith.telemetry.exchange.table import encode_json
    from tinsmith.telemetry.query.keys import summarize_keys

    sides: list[dict[str, KeySummary]] = [
        {one.key: one for one in summarize_keys(store.points(run.run_id))} for run in runs
    ]
    rows: list[dict[str, Any]] = []
    for key in sorted(set(sides[0]) | set(sides[1])):
        both = [side.get(key) for side in sides]
        last = [None if one is None else one.last for one in both]
        one, other = last
        change = None if one is None or other is None else other - one
        steps = [None if one is None else one.last_step for one in both]
        rows.append(encode_json({"key": key, "last": last, "change": change, "last_step": steps}))
    return rows


def _text(value: object) -> str:
    if value is None or value in ([], ()):
        return ABSENT
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}... ({len(text)} characters)"
