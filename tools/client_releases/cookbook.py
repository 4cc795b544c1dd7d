"""The supervised and RL loops of tinker_cookbook on one small batch; runs in its own environment.

Prints one JSON object: the losses and rewards of each step. Needs nothing of ours but a model's
folder, for its tokenizer.

    python cookbook.py URL KEY BASE_MODEL MODEL_DIR LOG_DIR
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chz
import tinker
from tinker_cookbook import tokenizer_utils
from tinker_cookbook.rl import train as rl
from tinker_cookbook.rl.types import (
    Env,
    EnvGroupBuilder,
    RLDataset,
    RLDatasetBuilder,
    StepResult,
)
from tinker_cookbook.supervised import train as supervised
from tinker_cookbook.supervised.common import datum_from_model_input_weights
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder

NUM_STEPS = 3
MAX_TOKENS = 6
PROMPT = [50, 117, 9, 204]


class OneBatch(SupervisedDataset):
    """The same four texts at every step."""

    def get_batch(self, index: int) -> list[tinker.Datum]:
        import torch

        data = []
        for start in (50, 81, 112, 143):
            tokens = [start + offset % 7 for offset in range(17)]
            weights = torch.ones(len(tokens))
            prompt = tinker.ModelInput.from_ints(tokens)
            data.append(datum_from_model_input_weights(prompt, weights))
        return data

    def __len__(self) -> int:
        return NUM_STEPS

    def set_epoch(self, seed: int = 0) -> None:
        """Nothing to shuffle."""


@chz.chz
class OneBatchBuilder(SupervisedDatasetBuilder):
    """Makes it."""

    def __call__(self) -> tuple[SupervisedDataset, None]:
        return OneBatch(), None


class EvenTokens(Env):
    """One answer of a few tokens; the reward is the share of even ones."""

    async def initial_observation(self) -> tuple[tinker.ModelInput, list[int]]:
        return tinker.ModelInput.from_ints(PROMPT), []

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        reward = sum(token % 2 == 0 for token in action) / max(1, len(action))
        return StepResult(
            reward=reward,
            episode_done=True,
            next_observation=tinker.ModelInput.empty(),
            next_stop_condition=[],
        )


class EvenTokensGroup(EnvGroupBuilder):
    """Eight tries at the same prompt."""

    async def make_envs(self) -> Sequence[Env]:
        return [EvenTokens() for _ in range(8)]


class OneGroup(RLDataset):
    """Two groups at every step."""

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        return [EvenTokensGroup(), EvenTokensGroup()]

    def __len__(self) -> int:
        return NUM_STEPS


@chz.chz
class OneGroupBuilder(RLDatasetBuilder):
    """Makes it."""

    async def __call__(self) -> tuple[RLDataset, None]:
        return OneGroup(), None


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """What the loop logged, step by step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main(url: str, key: str, base_model: str, model_dir: str, log_dir: str) -> dict[str, Any]:
    """Run both loops."""
    from transformers import AutoTokenizer

    os.environ["TINKER_API_KEY"], os.environ["TINKER_BASE_URL"] = key, url
    tokenizer_utils.register_tokenizer(base_model, lambda: AutoTokenizer.from_pretrained(model_dir))
    folders = {name: Path(log_dir) / name for name in ("supervised", "rl")}
    shared: dict[str, Any] = {
        "model_name": base_model,
        "recipe_name": "conformance",
        "learning_rate": 5e-3,
        "lora_rank": 8,
        "base_url": url,
        "eval_every": 0,
        "save_every": 0,
        "renderer_name": "role_colon",
    }
    config = supervised.Config(
        dataset_builder=OneBatchBuilder(),
        log_path=str(folders["supervised"]),
        num_epochs=1,
        lr_schedule="constant",
        **shared,
    )
    asyncio.run(supervised.main(config))
    config = rl.Config(
        dataset_builder=OneGroupBuilder(),
        log_path=str(folders["rl"]),
        max_tokens=MAX_TOKENS,
        **shared,
    )
    asyncio.run(rl.main(config))
    return {name: metrics_of(folder) for name, folder in folders.items()}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
