"""Lightning and the Hugging Face Trainer record by adding one callback; the scripts in examples."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.assets import REPOSITORY
from tinsmith.telemetry import RunRecord, RunStatus, open_store
from tinsmith.telemetry.stores import Store

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def script(name: str, folder: Path, *flags: str, expected: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / name), str(folder / "out"), *flags],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "TINSMITH_RECORD": str(folder / "runs"), "TINSMITH_RECORD_STRICT": "1"},
    )
    assert done.returncode == expected, done.stderr[-2000:]
    return done.stderr


def the_run(folder: Path) -> tuple[Store, RunRecord]:
    store = open_store(folder / "runs")
    (run,) = store.list_runs()
    return store, run


def series(store: Store, run: RunRecord, key: str, **which: Any) -> list[tuple[int, float]]:
    found = store.points(run.run_id, [key], **which)
    return list(zip(found.step.tolist(), found.value.tolist(), strict=True))


def counts(store: Store, run: RunRecord) -> Counter[str]:
    return Counter(event.name for event in store.events(run.run_id))


def test_a_trainer_script_records_and_resumes_by_one_callback(tmp_path: Path) -> None:
    script("trainer_run.py", tmp_path)
    store, run = the_run(tmp_path)
    assert (run.project, run.name, run.status) == ("examples", "trainer", RunStatus.FINISHED)
    assert run.config["training"]["learning_rate"] == 1e-2
    assert run.config["model"]["n_embd"] == 16
    losses = series(store, run, "train/loss")
    assert [step for step, _ in losses] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert losses[-1][1] < losses[0][1]
    assert [step for step, _ in series(store, run, "eval/loss")] == [8, 16]
    expected = {
        "train.run.started": 1, "train.run": 1, "train.epoch.started": 2, "train.epoch": 2,
        "train.step": 16, "eval.finished": 2, "checkpoint.saved": 2,
        "run.started": 1, "run.finished": 1,
    }  # fmt: skip
    assert counts(store, run) == expected
    saved = store.events(run.run_id, "checkpoint.saved")
    assert [Path(str(event.metadata["path"])).is_dir() for event in saved] == [True, True]
    assert all(event.measurements["bytes"] > 1_000 for event in saved)

    script("trainer_run.py", tmp_path, "--resume")
    store, run = the_run(tmp_path)
    assert [one.resumed_from_step for one in store.attempts(run.run_id)] == [None, 16]
    assert [step for step, _ in series(store, run, "eval/loss")] == [8, 16, 24]
    assert [step for step, _ in series(store, run, "train/loss")] == list(range(2, 25, 2))
    assert series(store, run, "train/loss", attempt=1) == losses


def test_a_lightning_script_records_and_resumes_by_one_callback(tmp_path: Path) -> None:
    script("lightning_run.py", tmp_path)
    store, run = the_run(tmp_path)
    assert (run.project, run.name, run.status) == ("examples", "lightning", RunStatus.FINISHED)
    assert run.config["model"] == {"lr": 0.1}
    losses = series(store, run, "train/loss")
    assert [step for step, _ in losses] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert [step for step, _ in series(store, run, "eval/loss")] == [7, 15]
    assert [step for step, _ in series(store, run, "test/loss")] == [16]
    expected = {
        "train.run.started": 1, "train.run": 1, "train.epoch.started": 2, "train.epoch": 2,
        "train.step": 16, "eval.started": 3, "eval.finished": 3,
        "checkpoint.saved": 2, "run.started": 1, "run.finished": 1,
    }  # fmt: skip
    found = counts(store, run)
    assert found.pop("checkpoint.saved") >= 1
    del expected["checkpoint.saved"]
    assert found == expected
    (saved, *_) = store.events(run.run_id, "checkpoint.saved")
    assert Path(str(saved.metadata["path"])).is_file()

    script("lightning_run.py", tmp_path, "--resume")
    store, run = the_run(tmp_path)
    assert [one.resumed_from_step for one in store.attempts(run.run_id)] == [None, 15]
    assert [step for step, _ in series(store, run, "train/loss")] == list(range(1, 25, 2))
    assert [step for step, _ in series(store, run, "eval/loss")] == [7, 15, 23]
    assert series(store, run, "train/loss", attempt=1) == losses


FAILING = """
import sys
import examples.{name} as example
from tinsmith import telemetry

def broken(self, *inputs):
    raise ValueError("no such row")

example.{broken} = broken
try:
    example.main(__import__("pathlib").Path(sys.argv[1]), False)
except ValueError:
    pass  # as a sweep does, that goes on with the next setting
"""


@pytest.mark.parametrize(
    ("name", "broken"),
    [("trainer_run", "Counting.__getitem__"), ("lightning_run", "Line.training_step")],
)
def test_a_training_that_fails_is_a_failed_run_though_the_script_goes_on(
    name: str, broken: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(name=name, broken=broken), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=REPOSITORY,
        env={**os.environ, "TINSMITH_RECORD": str(tmp_path / "runs")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    store, run = the_run(tmp_path)
    assert run.status is RunStatus.FAILED
    found = counts(store, run)
    assert found["train.exception"] == found["train.run.exception"] == found["run.failed"] == 1
    assert found["run.finished"] == 0
    (told,) = store.events(run.run_id, "train.exception")
    if name == "lightning_run":  # the Trainer of Transformers does not tell its callbacks
        assert told.metadata == {"error": "ValueError", "message": "no such row"}


def test_a_checkpoint_within_an_epoch_keeps_the_steps_before_it_and_no_other(
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch")
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    from examples.lightning_run import Line
    from tinsmith.telemetry.integrations.lightning import RecorderCallback

    x = torch.linspace(-1, 1, 64)[:, None]
    points = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x), batch_size=8)

    def fit(**resume: Any) -> None:
        trainer = lightning.Trainer(
            max_epochs=1,
            logger=False,
            accelerator="cpu",
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1),
                recorder := RecorderCallback(store=tmp_path / "runs"),
            ],
        )
        trainer.fit(Line(), points, **resume)
        recorder.finish()

    fit()
    fit(ckpt_path=tmp_path / "step=3.ckpt")
    store, run = the_run(tmp_path)
    assert [one.resumed_from_step for one in store.attempts(run.run_id)] == [None, 2]
    found = store.points(run.run_id, ["train/loss"])
    assert found.step.tolist() == list(range(8))
    assert found.attempt.tolist() == [1, 1, 1, 2, 2, 2, 2, 2]
    saved = store.events(run.run_id, "checkpoint.saved")
    assert [event.step for event in saved] == [3, 6, 6]
