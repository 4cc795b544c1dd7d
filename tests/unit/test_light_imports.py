"""Importing is cheap: the base rooms load no torch, no transformers and no web framework."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "fastapi", "starlette", "uvicorn", "safetensors", "pandas")


def loaded_after(statement: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after a statement."""
    report = f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    code = f"{statement}\nimport sys, json\n{report}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module",
    [
        "tinsmith",
        "tinsmith.core",
        "tinsmith.types",
        "tinsmith.telemetry",
        "tinsmith.client",
        "tinsmith.renderers",
        "tinsmith.regularizers",
        "tinsmith.data",
        "tinsmith.training",
        "tinsmith.cli",
    ],
)
def test_importing_a_library_room_loads_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import {module}") == set()


def test_using_the_public_names_loads_nothing_heavy() -> None:
    used = "import tinsmith; tinsmith.ServiceClient; tinsmith.Datum; tinsmith.AdamParams()"
    assert loaded_after(used) == set()


@pytest.mark.parametrize(
    "words",
    [[], ["train"], ["train", "sft"], ["train", "dpo"], ["train", "rl"], ["serve"], ["sample"]],
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    run = f"from tinsmith.cli import main\nassert main({[*words, '--help']!r}) == 0"
    assert loaded_after(run) == set()


def test_importing_tinsmith_alone_loads_not_even_numpy_or_pydantic() -> None:
    report = "print([n for n in ('numpy', 'pydantic', 'httpx') if n in sys.modules])"
    code = f"import tinsmith, sys; {report}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
