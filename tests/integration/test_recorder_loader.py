"""A torch data loader with forked workers, while the training process records."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinsmith.telemetry import open_store

REPOSITORY = Path(__file__).parents[2]
NUM_EPOCHS = 100 if os.environ.get("TINSMITH_SLOW") else 5

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
]

TRAINING = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from tinsmith import telemetry

class Rows(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        telemetry.event(telemetry.events.SAMPLE_DROPPED, metadata={"reason": "none"}, step=index)
        return torch.tensor(float(index))

torch.set_num_threads(1)
with telemetry.init(store=sys.argv[1], run_id="r1") as run:
    step = 0
    for epoch in range(int(sys.argv[2])):
        loader = DataLoader(Rows(), batch_size=4, num_workers=4, multiprocessing_context="fork")
        for batch in loader:
            run.log({"loss": batch.mean()}, step=step)
            step += 1
assert run.health == {}, run.health
"""


def test_a_torch_loader_with_four_forked_workers_never_hangs_and_its_workers_record(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path), str(NUM_EPOCHS)],
        capture_output=True,
        text=True,
        timeout=60 + 10 * NUM_EPOCHS,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path)
    assert len(store.points("r1", ["loss"])) == 8 * NUM_EPOCHS
    assert len(store.events("r1", "sample.dropped")) == 32 * NUM_EPOCHS
    store.close()
