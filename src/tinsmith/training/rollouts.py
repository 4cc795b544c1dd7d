"""Groups of answers to prompts, sampled with seeds of their own, graded, and made into datums.

The seed of a group follows from the run's seed, the step and the group's place in it, so a resumed
run draws what an undisturbed one would have drawn.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import ConfigError
from tinsmith.data import Prompt
from tinsmith.renderers import Renderer
from tinsmith.renderers.messages import content_text
from tinsmith.training.graders import Grader
from tinsmith.training.rl_config import RLConfig
from tinsmith.types import Datum, ModelInput, SamplingParams, TensorData

if TYPE_CHECKING:
    from tinsmith.client import SamplingClient
    from tinsmith.types import SampledSequence

MASK = "mask"
"""Loss input that is 1 on sampled tokens; it stays on this side."""


@dataclass(frozen=True)
class Rollout:
    """One answer.

    Attributes:
        tokens: (N,), those that were sampled.
        logprobs: (N,), of each when it was drawn, at temperature 1.
        text: What they say.
        reward: What it is worth.
        has_ended: Whether it ended by itself.
    """

    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    text: str
    reward: float
    has_ended: bool


@dataclass(frozen=True)
class Group:
    """The answers to one prompt.

    Attributes:
        prompt: What was asked.
        prompt_tokens: The same as tokens.
        rollouts: The answers, in the order of their sampling.
    """

    prompt: Prompt
    prompt_tokens: tuple[int, ...]
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> NDArray[np.float64]:
        return np.array([rollout.reward for rollout in self.rollouts])

    @property
    def is_mixed(self) -> bool:
        """Whether rewards differ."""
        return bool(np.ptp(self.rewards) > 0)


def group_seed(seed: int, step: int, place: int) -> int:
    """Seed of the group at `place` of a step, below 2**32."""
    return int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0])


@dataclass(frozen=True)
class RolloutMaker:
    """How prompts are answered and graded.

    Attributes:
        config: Of the run.
        renderer: Format of prompts and answers.
        grader: Reward of an answer.
    """

    config: RLConfig
    renderer: Renderer
    grader: Grader

    async def make(
        self, sampler: SamplingClient, prompts: Sequence[Prompt], step: int
    ) -> list[Group]:
        """A group for every prompt of a step, all asked for at once.

        Raises:
            ConfigError: A reward is not finite.
        """
        inputs = [self.renderer.build_generation_prompt(prompt.messages) for prompt in prompts]
        asked = [
            sampler.sample(model_input, self.config.group_size, self._params(step, place))
            for place, model_input in enumerate(inputs)
        ]
        groups: list[Group] = []
        for prompt, model_input, future in zip(prompts, inputs, asked, strict=True):
            sequences = (await future).sequences
            rollouts = await asyncio.to_thread(self._graded, prompt, sequences)
            groups.append(Group(prompt, tuple(model_input.to_ints()), rollouts))
        return groups

    def _params(self, step: int, place: int) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            seed=group_seed(self.config.seed, step, place),
            stop=self.renderer.get_stop_sequences(),
        )

    def _graded(self, prompt: Prompt, sequences: Sequence[SampledSequence]) -> tuple[Rollout, ...]:
        rollouts: list[Rollout] = []
        for sequence in sequences:
            reply = self.renderer.parse_response(sequence.tokens)
            text = content_text(reply.message)
            reward = float(self.grader(text, prompt.answer))
            if not math.isfinite(reward):
                raise ConfigError(
                    f"reward={reward}: of the answer {text[:80]!r} to {prompt.path}:{prompt.line}",
                    field="reward",
                    hint="make the reward a finite number",
                )
            assert sequence.logprobs_np is not None  # every service sends them with samples
            rollouts.append(
                Rollout(
                    tokens=sequence.tokens_np.astype(np.int64),
                    logprobs=sequence.logprobs_np.astype(np.float32),
                    text=text,
                    reward=reward,
                    has_ended=reply.termination.is_clean,
                )
            )
        return tuple(rollouts)


def datum_of(group: Group, rollout: Rollout, advantage: float) -> Datum:
    """One answer as a datum: sampled tokens carry its advantage, the prompt's carry none."""
    tokens = np.concatenate([np.array(group.prompt_tokens, np.int64), rollout.tokens])
    num_given = len(group.prompt_tokens) - 1

    def after_prompt(values: NDArray[np.float32]) -> TensorData:
        return TensorData.from_numpy(np.concatenate([np.zeros(num_given, np.float32), values]))

    ones = np.ones(len(rollout.tokens), np.float32)
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1].tolist()),
        loss_fn_inputs={
            "target_tokens": TensorData.from_numpy(tokens[1:]),
            "logprobs": after_prompt(rollout.logprobs),
            "advantages": after_prompt(ones * np.float32(advantage)),
            MASK: after_prompt(ones),
        },
    )
