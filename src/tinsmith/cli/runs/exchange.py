"""`tinsmith runs export`, `import` and `convert`."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.runs.choosing import find_run, opened_store, short_id, store_option
from tinsmith.cli.tables import print_json, print_table
from tinsmith.core.errors import AlreadyExistsError, ConfigError

__all__ = ["convert_table", "export", "import_runs"]

FORMATS = ["csv", "jsonl", "parquet"]
format_option = click.option(
    "--format", "table_format", type=click.Choice(FORMATS), help="Default: by the file's ending."
)


@click.command("export")
@click.argument("run")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["run", "long", "wide"]),
    default="run",
    show_default=True,
    help="run: a folder with everything, which `import` reads; long: one row a point; wide: one row"
    " a step and a column a metric.",
)
@format_option
@click.option("-k", "--key", "keys", multiple=True, help="Only this metric; may be repeated.")
@click.option("--attempt", type=click.IntRange(1), help="The line of this attempt, as it was.")
@click.option(
    "--anonymise",
    "key_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Replace names by hashes keyed with this file's content, and leave texts out.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@store_option
@json_option
def export(
    run: str,
    target: Path,
    layout: str,
    table_format: str | None,
    keys: tuple[str, ...],
    attempt: int | None,
    key_file: Path | None,
    overwrite: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Write a run: to a folder with everything, or its metrics to one table."""
    from dataclasses import replace

    from tinsmith.telemetry.exchange.anonymise import Anonymiser
    from tinsmith.telemetry.exchange.bundle import load_bundle
    from tinsmith.telemetry.exchange.formats import write_table
    from tinsmith.telemetry.exchange.runs import long_rows, wide_rows, write_run

    if layout == "run" and (keys or attempt or overwrite):
        raise ConfigError(
            "--key, --attempt and --overwrite are for tables",
            hint="add --layout long or --layout wide",
        )
    if layout != "run" and target.exists() and not overwrite:
        raise AlreadyExistsError(f"{target}: exists", hint="add --overwrite to replace it")
    with opened_store(store) as opened:
        record = find_run(opened, run)
        bundle = load_bundle(opened, record.run_id)
        if layout != "run":
            line = opened.points(record.run_id, keys or None, attempt=attempt or "effective")
            bundle = replace(bundle, points=line)
    if key_file is not None:
        bundle = Anonymiser(key_file.read_text(encoding="utf-8").strip())(bundle)
    if layout == "run":
        write_run(bundle, target, table_format or "parquet")  # pyright: ignore[reportArgumentType] - click checked it
    else:
        rows = long_rows(bundle) if layout == "long" else wide_rows(bundle.points)
        write_table(rows, target, table_format)  # pyright: ignore[reportArgumentType] - as above
    told = {"run_id": record.run_id, "target": str(target), "points": len(bundle.points)}
    if as_json:
        print_json({**told, "skipped": dict(bundle.skipped)})
        return
    print(f"{record.name}: {len(bundle.points)} points to {target}")
    _say_skipped(bundle.skipped)


@click.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--project", help="Put the runs into this project; default: what they say.")
@store_option
@json_option
def import_runs(
    sources: tuple[Path, ...], project: str | None, store: str | None, as_json: bool
) -> None:
    """Read runs into the store: exported ones, and those of other recorders.

    SOURCES are files, or folders that are searched: W&B offline (*.wandb), TensorBoard
    (*.tfevents.*), MLflow (mlflow.db), trackio (PROJECT.db), Hugging Face Trainer
    (trainer_state.json), metrics.jsonl, and folders that `tinsmith runs export` wrote. Reading the
    same source again updates the run.
    """
    from dataclasses import replace

    from tinsmith.telemetry.exchange.bundle import store_bundle
    from tinsmith.telemetry.exchange.importers.detect import read_foreign
    from tinsmith.telemetry.exchange.runs import is_exported_run, read_run

    told: list[dict[str, object]] = []
    skipped: Counter[str] = Counter()
    with opened_store(store) as opened:
        for source in sources:
            found = [read_run(source)] if is_exported_run(source) else read_foreign(source)
            for bundle in found:
                if project is not None:
                    bundle = replace(bundle, record=replace(bundle.record, project=project))
                store_bundle(opened, bundle)
                skipped.update(bundle.skipped)
                told.append(
                    {
                        "run_id": bundle.record.run_id,
                        "name": bundle.record.name,
                        "project": bundle.record.project,
                        "source": str(source),
                        "from": bundle.record.metadata.get("imported_from", "tinsmith"),
                        "points": len(bundle.points),
                        "skipped": dict(bundle.skipped),
                    }
                )
    if as_json:
        print_json({"runs": told})
        return
    print_table(
        f"{len(told)} run{'' if len(told) == 1 else 's'} read",
        ("Run", "Name", "Project", "From", "Points"),
        [
            (
                short_id(str(one["run_id"])),
                *(str(one[column]) for column in ("name", "project", "from", "points")),
            )
            for one in told
        ],
    )
    _say_skipped(skipped)


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path))
@format_option
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@json_option
def convert_table(
    source: Path, target: Path, table_format: str | None, overwrite: bool, as_json: bool
) -> None:
    """Convert a table between CSV, JSONL and Parquet, with the same columns and exact numbers.

    The source's format is told by its content.
    """
    from tinsmith.telemetry.exchange.formats import convert

    if target.exists() and not overwrite:
        raise AlreadyExistsError(f"{target}: exists", hint="add --overwrite to replace it")
    found = convert(source, target, table_format)  # pyright: ignore[reportArgumentType] - click checked it
    if as_json:
        print_json({"source": str(source), "source_format": found, "target": str(target)})
    else:
        print(f"{source} ({found}) to {target}")


def _say_skipped(skipped: Mapping[str, int]) -> None:
    if skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        print(f"Left out: {kinds}")
