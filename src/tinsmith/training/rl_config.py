"""Configuration of the RL loop."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tinsmith.algorithms.schedules import ScheduleName
from tinsmith.core.errors import ConfigError
from tinsmith.training.config import LossNormalisation, RunConfig, Source


class RLConfig(RunConfig):
    """A reinforcement-learning run: groups of answers to prompts, graded."""

    data: Source
    """Prompts with answers: a file (JSONL, Parquet) or a data set (`hf:gsm8k`) whose rows have
    `question` (or `prompt`, `problem`) and `answer`."""
    reward: str | None = None
    """How an answer is rewarded: final_answer, exact, contains, or an entry point
    (`tinsmith.graders`). None only where the code that runs it gives a function."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts a step; the last batch of an epoch may be smaller."""
    group_size: int = Field(default=8, ge=2)
    """Answers to each prompt; an advantage is the reward less the group's mean."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling. The losses compare policies at temperature 1, so that any other is off-policy to
    begin with."""
    advantage: Literal["centred", "standardised"] = "centred"
    """`standardised` also divides by the standard deviation of the group's rewards."""
    keep_constant_groups: bool = False
    """Train also on groups whose rewards are all equal. They have no advantage, so that only
    regularizers act on them; without them a step that has no other keeps one."""

    loss: Literal["importance_sampling", "ppo"] = "importance_sampling"
    """Loss of a token, from its advantage and the ratio of the policies."""
    clip_low: float = Field(default=0.8, ge=0, le=1)
    """Lowest ratio that ppo lets a token gain by."""
    clip_high: float = Field(default=1.2, ge=1)
    """Highest ratio that ppo lets a token gain by."""
    num_substeps: int = Field(default=1, ge=1)
    """Optimizer updates a step, each on a part of its groups."""
    loss_normalisation: LossNormalisation = "token_mean"
    """Meaning of the learning rate: `token_mean` divides by the sampled tokens of an update, so
    every token counts the same; `example_mean` by those of each answer and by the number of
    answers, so every answer counts the same; `sum` divides by nothing."""
    learning_rate: float = Field(default=4e-5, gt=0)
    """Peak learning rate."""
    lr_schedule: ScheduleName = "constant"
    """Decay after warm-up: linear, cosine or constant."""

    @model_validator(mode="after")
    def _check_clipping(self) -> Self:
        for name in ("clip_low", "clip_high"):
            is_set = getattr(self, name) != type(self).model_fields[name].default
            if is_set and self.loss != "ppo":
                raise ConfigError(
                    f"{name}={getattr(self, name)}: {self.loss} does not clip",
                    field=name,
                    hint="set loss to ppo, or leave it out",
                )
        return self

    @property
    def loss_config(self) -> dict[str, float]:
        """Settings of the loss, as the service takes them."""
        if self.loss != "ppo":
            return {}
        return {"clip_low_threshold": self.clip_low, "clip_high_threshold": self.clip_high}
