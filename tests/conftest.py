"""Fixtures and profiles for every test: isolation from the person's machine, one torch thread."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.parity import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary", "pytest_testnodedown"]

# Two cores are shared by pytest, an engine process and a service: more threads only fight.
# Set before anything imports torch, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        help="write tests/golden anew instead of comparing with it; read the diff",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compare a JSON value with a file of tests/golden, or write the file when asked to."""

    def compare(name: str, value: Any) -> None:
        path = GOLDEN / name
        if request.config.getoption("--regenerate-golden"):
            path.parent.mkdir(exist_ok=True)
            text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
        assert value == json.loads(path.read_text(encoding="utf-8"))

    return compare


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the test run its own TINSMITH_HOME and no service address of the person's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINSMITH_HOME", str(tmp_path_factory.mktemp("home")))
        # Tests count requests; reports have tests of their own, which turn them on.
        patch.setenv("TINSMITH_TELEMETRY", "0")
        patch.setenv("TINSMITH_RECORD", "off")
        # An event that nobody registered is a mistake of ours.
        patch.setenv("TINSMITH_RECORD_STRICT", "1")
        for prefix in ("TINSMITH", "TINKER"):
            patch.delenv(f"{prefix}_BASE_URL", raising=False)
            patch.delenv(f"{prefix}_API_KEY", raising=False)
            patch.delenv(f"{prefix}_CREDENTIAL_CMD", raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """The bundled model's folder."""
    from tinsmith.core.paths import bundled_model_dir

    folder = bundled_model_dir()
    if not (folder / "config.json").exists():
        pytest.skip(f"the bundled model is not in {folder}")
    return folder
