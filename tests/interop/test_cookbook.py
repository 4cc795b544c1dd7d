"""The loops of tinker_cookbook against our service, in an environment of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.conftest import API_KEY
from tools.client_releases.environments import interpreter

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("TINSMITH_SLOW"),
        reason="installs tinker_cookbook from the network; TINSMITH_SLOW=1 runs it",
    ),
]

# Its pins disagree with ours, so it is installed without them, with what it imports and we do not.
REQUIREMENTS = (
    "tinker-cookbook==0.6.1",
    *("aiohappyeyeballs", "aiohttp", "aiosignal", "attrs", "blobfile", "chz", "cloudpickle"),
    *("datasets", "dill", "frozenlist", "lxml", "multidict", "multiprocess", "pandas", "pillow"),
    *("propcache", "pyarrow", "pycryptodomex", "python-dateutil", "pytz", "six", "termcolor"),
    *("tiktoken", "tinker==0.38.0", "tqdm", "xxhash", "yarl"),
)
SCRIPT = Path(__file__).parents[2] / "tools" / "client_releases" / "cookbook.py"


def test_its_supervised_and_rl_loops_learn_one_batch(
    service: ServiceProcess, tiny_dir: Path, tmp_path: Path
) -> None:
    # Not in the run's own home: that one is thrown away.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinsmith"
    python = interpreter(cache / "client-releases" / "cookbook-0.6.1", REQUIREMENTS)
    arguments = [service.ready["url"], API_KEY, BASE_MODEL, str(tiny_dir), str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment | {"TINKER_TELEMETRY": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads(done.stdout.splitlines()[-1])
    losses = [step["train_mean_nll"] for step in metrics["supervised"] if "train_mean_nll" in step]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    assert losses[0] > losses[1] > losses[2]
    steps = [step for step in metrics["rl"] if "env/all/reward/total" in step]
    assert len(steps) == 3
    for step in steps:
        assert 0 <= step["env/all/reward/total"] <= 1
        # What sampled is what is trained: the weights change through the API and by nothing else.
        assert abs(step["optim/kl_sample_train_v1"]) < 1e-4
