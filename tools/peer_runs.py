"""Record one small run with W&B, TensorBoard, tensorboardX, MLflow and trackio.

    python -m venv peers && peers/bin/pip install wandb mlflow tensorboard tensorboardX trackio
    peers/bin/python tools/peer_runs.py tests/golden/peers

The files are what the importers' tests read, so that these tests need none of the tools installed.
`expected.json` says what was logged; the values of the importers are compared with it.
"""

# The tools live in an environment of their own.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

STEPS = 12
CONFIG = {"learning_rate": 3e-4, "model": "tiny", "layers": [1, 2], "optimizer": {"name": "adamw"}}


def points() -> list[tuple[int, dict[str, float]]]:
    """Two keys at every step, a third at every other one; NaN and both infinities among them."""
    rows: list[tuple[int, dict[str, float]]] = []
    for step in range(STEPS):
        metrics = {"train/loss": 3.0 / (step + 1), "grad norm": 0.1 + step}
        if step % 2 == 0:
            metrics["eval/nll ü"] = 2.0**-step
        if step == 5:
            metrics["train/loss"] = math.nan
        if step == 6:
            metrics["train/loss"] = math.inf
        if step == 7:
            metrics["train/loss"] = -math.inf
        rows.append((step, metrics))
    return rows


def record_wandb(folder: Path) -> None:
    """An offline run with a table and a histogram beside its numbers."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = scratch
        import wandb

        run = wandb.init(
            project="peers",
            name="small run",
            config=CONFIG,
            tags=["golden"],
            mode="offline",
            dir=scratch,
            notes="a note",
            group="seeds",
            settings=wandb.Settings(
                x_disable_stats=True,
                x_disable_meta=True,
                save_code=False,
                console="off",
                disable_git=True,
            ),
        )
        for step, metrics in points():
            run.log(metrics, step=step)
        run.log(
            {
                "samples": wandb.Table(columns=["text"], data=[["hello"]]),
                "widths": wandb.Histogram([1.0, 2.0, 2.0]),
            },
            step=STEPS,
        )
        run.finish()
        wandb.teardown()  # the file is whole when the service that writes it has ended
        (found,) = Path(scratch).glob("wandb/offline-run-*/*.wandb")
        shutil.copy(found, folder / "run.wandb")


def record_tensorboard(folder: Path) -> None:
    """Scalars as tensors, which TensorBoard's own writer makes of them."""
    from tensorboard.summary import Writer

    target = folder / "tensorboard"
    writer = Writer(str(target))
    for step, metrics in points():
        for key, value in metrics.items():
            writer.add_scalar(key, value, step=step)
    writer.close()
    _name_evenly(target)


def record_tensorboardx(folder: Path) -> None:
    """Scalars as simple values, and one text."""
    from tensorboardX import SummaryWriter

    target = folder / "tensorboardx"
    writer = SummaryWriter(str(target))
    for step, metrics in points():
        for key, value in metrics.items():
            writer.add_scalar(key, value, step)
    writer.add_text("note", "hello", 0)
    writer.close()
    _name_evenly(target)


def _name_evenly(folder: Path) -> None:
    """Take the machine's name out of the event file's."""
    (path,) = folder.iterdir()
    path.rename(folder / "events.out.tfevents.1700000000.golden")


def record_mlflow(folder: Path) -> None:
    """A run in a SQLite store."""
    import mlflow

    path = folder / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.set_experiment("peers")
    with mlflow.start_run(run_name="small run"):
        mlflow.log_params({"learning_rate": 3e-4, "model": "tiny"})
        mlflow.set_tag("team", "golden")
        for step, metrics in points():
            mlflow.log_metrics({key: v for key, v in metrics.items() if "ü" not in key}, step=step)
    _forget_paths(path)


MLFLOW_TABLES = {"experiments", "runs", "metrics", "params", "tags", "alembic_version"}
TRACKIO_TABLES = {"metrics", "configs", "project_metadata"}


def _keep_tables(db: sqlite3.Connection, keep: set[str]) -> None:
    """Drop what the importer does not read, which may name the recording machine."""
    db.execute("PRAGMA foreign_keys=OFF")
    for kind in ("view", "trigger", "table"):
        names = db.execute("SELECT name FROM sqlite_master WHERE type=?", (kind,)).fetchall()
        for (name,) in names:
            if name not in keep and not name.startswith("sqlite_"):
                db.execute(f"DROP {kind} IF EXISTS [{name}]")


def _forget_paths(path: Path) -> None:
    """Blank the folder, the person and the script of the recording machine."""
    db = sqlite3.connect(path)
    _keep_tables(db, MLFLOW_TABLES)
    db.execute("UPDATE experiments SET artifact_location=''")
    db.execute("UPDATE runs SET artifact_uri='', user_id='someone', source_name='train.py'")
    db.execute("DELETE FROM tags WHERE key LIKE 'mlflow.source.git.%'")
    db.execute("UPDATE tags SET value='someone' WHERE key='mlflow.user'")
    db.execute("UPDATE tags SET value='train.py' WHERE key='mlflow.source.name'")
    db.commit()
    db.execute("VACUUM")
    db.close()


def record_trackio(folder: Path) -> None:
    """A run in a project's database."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TRACKIO_DIR"] = scratch
        import trackio

        run = trackio.init(project="peers", name="small run", config=CONFIG, embed=False)
        for step, metrics in points():
            run.log(metrics, step=step)
        run.finish()
        (found,) = Path(scratch).glob("*.db")
        source = sqlite3.connect(found)
        target = sqlite3.connect(folder / "trackio.db")
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
        _keep_tables(target, TRACKIO_TABLES)
        target.commit()
        target.execute("VACUUM")
        target.close()
        source.close()


def main(folder: Path) -> None:
    """Record the run with each tool, and write down what was logged."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in (
        record_wandb,
        record_tensorboard,
        record_tensorboardx,
        record_mlflow,
        record_trackio,
    ):
        record(folder)
    expected = [{"step": step, **{k: repr(v) for k, v in row.items()}} for step, row in points()]
    text = json.dumps({"config": CONFIG, "points": expected}, indent=1, ensure_ascii=False)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
