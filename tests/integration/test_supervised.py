"""The supervised loop against a real service: it learns, and it survives `kill -9`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import ServiceProcess
from tinsmith.core.paths import state_dir
from tinsmith.telemetry import read_metrics
from tinsmith.training import SupervisedConfig, names, run_supervised
from tinsmith.training.checkpoints import read_records

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# A trainer that kills itself, with no chance to clean up, once a step's metrics are on disk. By
# then the next step is on its way: the service goes on with it while nobody is there.
TRAINER = """
import json, os, signal, sys
from tinsmith.training import SupervisedConfig, run_supervised

settings, die_at = json.loads(sys.argv[1]), int(sys.argv[2])

class DiesAt:
    def log(self, step, metrics):
        if step == die_at and "train/nll" in metrics:
            os.kill(os.getpid(), signal.SIGKILL)
    def close(self): ...

run_supervised(SupervisedConfig(**settings), recorder=DiesAt())
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("service")
    with (
        ServiceProcess(directory, state_dir=state_dir()) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TINSMITH_API_KEY", running.ready["api_key"])
        yield running


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    colours = ["red", "green", "blue", "white", "black", "brown", "pink", "grey"]
    with path.open("w") as file:
        for number in range(24):
            colour = colours[number % len(colours)]
            messages = [
                {"role": "user", "content": f"What colour is thing number {number}?"},
                {
                    "role": "assistant",
                    "content": f"Thing {number} is {colour}. " * (1 + number % 3),
                },
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def settings(service: ServiceProcess, data: Path, run_dir: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": str(data),
        "run_dir": str(run_dir),
        "base_url": service.ready["url"],
        "test_size": 4,
        "batch_size": 5,
        "num_epochs": 3,
        "learning_rate": 2e-3,
        "lora_rank": 8,
        "warmup_steps": 2,
        "lr_schedule": "cosine",
        "eval_every": 4,
        "save_every": 3,
        "seed": 7,
    } | changes


def train_and_die(config: dict[str, Any], die_at: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAINER, json.dumps(config), str(die_at)],
        env=os.environ.copy(),
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def comparable(run_dir: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(names.MEASURED_PREFIXES)}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def test_a_run_learns_and_leaves_an_adapter(
    service: ServiceProcess, data_file: Path, tmp_path: Path
) -> None:
    config = settings(service, data_file, tmp_path / "run")
    result = run_supervised(SupervisedConfig(**config))
    assert result.num_steps == 12
    assert result.eval_nll_before is not None
    assert result.eval_nll_after is not None
    assert result.eval_nll_after < 0.8 * result.eval_nll_before
    assert result.adapter_dir is not None
    assert (result.adapter_dir / "adapter_model.safetensors").exists()
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    assert {"optim/grad_norm", "optim/update_norm", "optim/weight_norm"} <= set(rows[1])
    assert [row["optim/step"] for row in rows if "optim/step" in row] == list(range(1, 13))


# The base model scores a term's texts one by one as they arrive, which no two runs do alike.
KL_TERM = {"kind": "kl_estimate", "weight": 0.1, "state": {"kind": "dual_ascent", "target": 0.1}}


@pytest.mark.parametrize(("die_at", "terms"), [(2, []), (7, [KL_TERM])])
def test_a_killed_trainer_resumes_to_the_metrics_of_an_undisturbed_run(
    service: ServiceProcess, data_file: Path, tmp_path: Path, die_at: int, terms: list[Any]
) -> None:
    changes = {"regularizers": terms}
    undisturbed = settings(service, data_file, tmp_path / "undisturbed", **changes)
    run_supervised(SupervisedConfig(**undisturbed))
    config = settings(service, data_file, tmp_path / "killed", if_exists="resume", **changes)
    train_and_die(config, die_at)
    assert max(row["step"] for row in comparable(tmp_path / "killed")) == die_at
    result = run_supervised(SupervisedConfig(**config))
    assert result.resumed_from_step == 3 * (die_at // 3)
    rows = comparable(tmp_path / "killed")
    assert rows == comparable(tmp_path / "undisturbed")
    assert sum("reg/kl_estimate/value" in row for row in rows) == (12 if terms else 0)
    steps = [record.step for record in read_records(tmp_path / "killed" / "checkpoints.jsonl")]
    assert steps == [3, 6, 9, 12]


def test_a_run_resumes_although_the_service_was_killed_with_the_trainer(
    service: ServiceProcess, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = settings(service, data_file, tmp_path / "undisturbed", num_epochs=2)
    run_supervised(SupervisedConfig(**undisturbed))
    for number, die_at in enumerate((5, None)):
        place = tmp_path / f"service{number}"
        place.mkdir()
        with ServiceProcess(place, state_dir=tmp_path / "state") as other:
            monkeypatch.setenv("TINSMITH_API_KEY", other.ready["api_key"])
            run_dir = tmp_path / "killed"
            config = settings(other, data_file, run_dir, if_exists="resume", num_epochs=2)
            if die_at is None:
                run_supervised(SupervisedConfig(**config))
            else:
                train_and_die(config, die_at)
                other.stop(signal.SIGKILL)
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "undisturbed")


def test_evaluation_leaves_training_untouched_to_the_bit(
    service: ServiceProcess, data_file: Path, tmp_path: Path
) -> None:
    def train_rows(eval_every: int) -> list[dict[str, float]]:
        run_dir = tmp_path / f"every{eval_every}"
        config = settings(service, data_file, run_dir, eval_every=eval_every, max_steps=4)
        run_supervised(SupervisedConfig(**config))
        return [row for row in comparable(run_dir) if names.TRAIN_NLL in row]

    assert train_rows(1) == train_rows(0)


def test_an_unknown_model_is_one_line_before_any_service_is_asked(
    data_file: Path, tmp_path: Path
) -> None:
    config = SupervisedConfig(data=data_file, model="/no/such/model", run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="model='/no/such/model': does not exist"):
        run_supervised(config)
    assert not (tmp_path / "run").exists()
