"""Runs that W&B, TensorBoard, MLflow, trackio and the Trainer recorded come in point for point.

The files in `tests/golden/peers` were recorded by the tools themselves (`tools/peer_runs.py`).
"""

import json
import math
import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinsmith.core.errors import DataError
from tinsmith.telemetry.exchange.bundle import RunBundle, store_bundle
from tinsmith.telemetry.exchange.importers.detect import read_foreign
from tinsmith.telemetry.model import PointColumns, RunStatus
from tinsmith.telemetry.stores import MemoryStore

PEERS = Path(__file__).parents[3] / "golden" / "peers"
EXPECTED = json.loads((PEERS / "expected.json").read_text(encoding="utf-8"))


def logged() -> list[tuple[str, int, float]]:
    return [
        (key, row["step"], float(value))
        for row in EXPECTED["points"]
        for key, value in row.items()
        if key != "step"
    ]


def values(points: PointColumns, *, own_keys: str = "_") -> list[tuple[str, int, float]]:
    rows = [(key, step, value) for key, step, _, _, _, value in points.rows()]
    return [row for row in rows if not row[0].startswith(own_keys)]


def the_run(path: Path) -> RunBundle:
    (bundle,) = read_foreign(path)
    return bundle


def assert_equal(found: list[Any], expected: list[Any]) -> None:
    assert [row[:2] for row in sorted(found)] == [row[:2] for row in sorted(expected)]
    np.testing.assert_array_equal(
        [row[2] for row in sorted(found, key=lambda r: r[:2])],
        [row[2] for row in sorted(expected, key=lambda r: r[:2])],
    )


def test_wandb_offline() -> None:
    bundle = the_run(PEERS / "run.wandb")
    assert_equal(values(bundle.points), logged())
    record = bundle.record
    assert (record.project, record.name, record.group) == ("peers", "small run", "seeds")
    assert (record.tags, record.hypothesis) == (("golden",), "a note")
    assert record.config == EXPECTED["config"]
    assert record.status is RunStatus.FINISHED
    assert bundle.skipped == {"table-file": 1, "histogram": 1}


def test_wandb_recording_without_its_end_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = (PEERS / "run.wandb").read_bytes()
    seen = set()
    for length in range(len(whole) // 3, len(whole), 97):
        path = tmp_path / "cut.wandb"
        path.write_bytes(whole[:length])
        bundle = the_run(path)
        assert bundle.record.status is RunStatus.CREATED
        assert set(bundle.points.step.tolist()) <= set(range(13))
        seen.add(len(bundle.points))
    assert len(seen) > 2


def test_a_wandb_log_over_several_blocks_is_read(tmp_path: Path) -> None:
    """A record of 100 kB is written in pieces over blocks of 32 KiB, as LevelDB's logs are."""
    import zlib

    path = tmp_path / "long.wandb"
    records = [b"\x08\x01", b"\x2a" + b"\xa0\x8d\x06" + b"x" * 100_000, b"\x08\x02"]
    out = bytearray(b":W&B\xe1\xbe\x00")
    for data in records:
        first = True
        while True:
            left = 32_768 - len(out) % 32_768
            if left < 7:
                out += b"\x00" * left
                continue
            piece, data = data[: left - 7], data[left - 7 :]
            kind = (1 if not data else 2) if first else (4 if not data else 3)
            crc = zlib.crc32(bytes([kind]) + piece)
            out += struct.pack("<IHB", crc, len(piece), kind) + piece
            first = False
            if not data:
                break
    path.write_bytes(out)
    from tinsmith.telemetry.exchange.importers.wire import read_wandb_log

    assert [len(record) for record in read_wandb_log(path)] == [2, 100_004, 2]


@pytest.mark.parametrize("writer", ["tensorboard", "tensorboardx"])
def test_tensorboard(writer: str) -> None:
    bundle = the_run(PEERS / writer)
    expected = [(key, step, float(np.float32(value))) for key, step, value in logged()]
    if writer == "tensorboardx":  # it replaces what it does not like in a name
        expected = [(key.replace(" ", "_"), step, value) for key, step, value in expected]
        assert bundle.skipped == {"text": 1}
    assert_equal(values(bundle.points), expected)
    assert bundle.record.name == writer


def test_mlflow() -> None:
    bundle = the_run(PEERS / "mlflow.db")
    assert_equal(values(bundle.points), [row for row in logged() if "ü" not in row[0]])
    record = bundle.record
    assert (record.project, record.name, record.status) == ("peers", "small run", "finished")
    assert record.config == {"learning_rate": 3e-4, "model": "tiny"}
    assert record.tags == ("team=golden",)


def test_trackio() -> None:
    bundle = the_run(PEERS / "trackio.db")
    assert_equal(values(bundle.points), logged())
    assert bundle.record.name == "small run"
    assert bundle.record.config == EXPECTED["config"]


def test_trainer_state(tmp_path: Path) -> None:
    """Written as `transformers.TrainerState.save_to_json` does, a bare NaN included."""
    state = {
        "global_step": 3,
        "num_train_epochs": 1,
        "log_history": [
            {"epoch": 0.5, "loss": 2.5, "grad_norm": math.nan, "learning_rate": 1e-4, "step": 1},
            {"epoch": 1.0, "eval_loss": 2.0, "eval_runtime": 0.5, "step": 3},
            {"epoch": 1.0, "loss": 2.0, "step": 3},
            {"epoch": 1.0, "train_loss": 2.25, "total_flos": 7, "step": 3},
        ],
    }
    path = tmp_path / "checkpoint-3" / "trainer_state.json"
    path.parent.mkdir()
    path.write_text(json.dumps(state, indent=2, sort_keys=True))
    bundle = the_run(path)
    found = {(key, step): value for key, step, value in values(bundle.points)}
    assert found[("train/loss", 1)] == 2.5
    assert math.isnan(found[("train/grad_norm", 1)])
    assert found[("eval/loss", 3)] == 2.0
    assert found[("train/loss", 3)] == 2.0
    assert found[("train/train_loss", 3)] == 2.25  # the mean of the training, beside the last loss
    assert bundle.record.config["num_train_epochs"] == 1


def test_our_metrics_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "train/nll": 2.5}\n{"step": 1, "train/nll": "NaN", "note": "hello"}\n'
    )
    (tmp_path / "config.json").write_text('{"seed": 3}')
    bundle = the_run(tmp_path)
    assert [row[:2] for row in values(bundle.points)] == [("train/nll", 0), ("train/nll", 1)]
    assert bundle.skipped == {"text": 1}
    assert bundle.record.config == {"seed": 3}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "train/nll": 1.0}\n')
    assert the_run(tmp_path).record.run_id == bundle.record.run_id


def test_a_folder_yields_every_run_under_it_and_importing_twice_changes_nothing() -> None:
    store = MemoryStore()
    for _ in range(2):
        for bundle in read_foreign(PEERS):
            store_bundle(store, bundle)
    found = {str(run.metadata["imported_from"]): run.run_id for run in store.list_runs()}
    assert sorted(found) == ["mlflow", "tensorboard", "trackio", "wandb"]
    assert len(store.list_runs()) == 5
    assert len(store.points(found["trackio"], attempt="all")) == len(logged())


def damaged(source: Path, target: Path, at: int) -> Path:
    content = bytearray(source.read_bytes())
    content[at] ^= 0xFF
    target.write_bytes(content)
    return target


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = damaged(PEERS / "run.wandb", tmp_path / "a.wandb", 4000)
    with pytest.raises(DataError, match=r"record at byte \d+ is damaged"):
        the_run(path)
    (source,) = (PEERS / "tensorboardx").iterdir()
    path = damaged(source, tmp_path / "events.out.tfevents.1", 700)
    with pytest.raises(DataError, match=r"record at byte \d+ is damaged"):
        the_run(path)


def test_what_no_tool_wrote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("CREATE TABLE t (x)")
    db.commit()
    db.close()
    for path in (tmp_path / "notes.txt", tmp_path / "other.db"):
        with pytest.raises(DataError, match="not the record of a tool that is known; known: W&B"):
            list(read_foreign(path))
    with pytest.raises(DataError, match="no run of a tool that is known in it"):
        list(read_foreign(tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_foreign(tmp_path / "missing"))
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(DataError, match="it has no log_history"):
        list(read_foreign(tmp_path))


def test_reading_a_database_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "peers.db"
    shutil.copy(PEERS / "trackio.db", path)
    before = path.read_bytes()
    the_run(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["peers.db"]
