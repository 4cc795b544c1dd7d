"""Evaluators that sample with the weights of the moment: accuracy of tokens, graded answers.

The loop makes one sampling client an evaluation for all of them; they do not see the training
client, so they cannot touch what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tinsmith.data import Prompt, read_prompts
from tinsmith.renderers import Renderer
from tinsmith.renderers.messages import Message, content_text
from tinsmith.training import names
from tinsmith.training.config import SampleEvalConfig
from tinsmith.training.evaluators import Evaluator, HeldOutSet
from tinsmith.training.graders import Grader, get_grader, load_entry_point
from tinsmith.types import Datum, ModelInput, SamplingParams

if TYPE_CHECKING:
    from tinsmith.client import SamplingClient
    from tinsmith.training.config import RunConfig


class SamplingEvaluator(Protocol):
    """Measures the current weights by sampling from them."""

    @property
    def needs_sampler(self) -> bool:
        """True; tells it from an evaluator that is given the training client."""
        ...

    async def __call__(self, sampler: SamplingClient) -> Mapping[str, float]:
        """Metrics of the weights behind `sampler`."""
        ...


AnyEvaluator = Evaluator | SamplingEvaluator


def load_evaluator(name: str, config: RunConfig) -> AnyEvaluator:
    """An evaluator of an installed package: its entry point is called with the run's config.

    Raises:
        UnknownNameError: No package offers it.
    """
    return load_entry_point("tinsmith.evaluators", name, {}, "evaluator")(config)


@dataclass(frozen=True)
class AccuracyEvaluator:
    """How often the likeliest token, given the ones before it, is the held-out one.

    Attributes:
        datums: Held-out datums; tokens whose weight is 0 do not count.
        needs_sampler: True.
    """

    datums: tuple[Datum, ...]
    needs_sampler: bool = True

    @classmethod
    def from_sets(cls, sets: Mapping[str, HeldOutSet]) -> AccuracyEvaluator:
        return cls(tuple(d for held_out in sets.values() for b in held_out.batches for d in b))

    async def __call__(self, sampler: SamplingClient) -> Mapping[str, float]:
        params = SamplingParams(max_tokens=1, temperature=0.0)
        asked = [
            sampler.sample(whole_text(datum), 1, params, topk_prompt_logprobs=1)
            for datum in self.datums
        ]
        num_right = num_tokens = 0
        for datum, future in zip(self.datums, asked, strict=True):
            likeliest = (await future).topk_prompt_logprobs or []
            best = np.array([row[0][0] if row else -1 for row in likeliest[1:]])
            trained = datum.loss_fn_inputs["weights"].to_numpy() != 0
            targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
            num_right += int(((best == targets) & trained).sum())
            num_tokens += int(trained.sum())
        return {names.EVAL_ACCURACY: num_right / num_tokens}


def whole_text(datum: Datum) -> ModelInput:
    """Inputs and the last target: a prompt whose positions 1.. are the targets."""
    last = int(datum.loss_fn_inputs["target_tokens"].to_numpy()[-1])
    return ModelInput.from_ints([*datum.model_input.to_ints(), last])


@dataclass(frozen=True)
class Answer:
    """One sampled answer, for people to read."""

    prompt: tuple[Message, ...]
    text: str
    expected: str
    score: float


@dataclass(frozen=True)
class AnswerEvaluator:
    """Answers to prompts, graded.

    Attributes:
        prompts: What is asked.
        renderer: Format of prompts and answers.
        grader: Score of an answer, 0 to 1.
        config: How answers are sampled.
        answers: Those of the last evaluation, until they are taken.
        needs_sampler: True.
    """

    prompts: Sequence[Prompt]
    renderer: Renderer
    grader: Grader
    config: SampleEvalConfig
    answers: list[Answer] = field(default_factory=list)
    needs_sampler: bool = True

    @classmethod
    def from_config(cls, config: SampleEvalConfig, renderer: Renderer) -> AnswerEvaluator:
        """Read the prompts.

        Raises:
            DataError: Something is wrong with the file.
            UnknownNameError: No such grader.
        """
        assert config.data is not None
        prompts = read_prompts(config.data)[: config.max_prompts]
        return cls(prompts, renderer, get_grader(config.grader), config)

    def take_answers(self) -> list[Answer]:
        """The answers of the last evaluation; they are kept no longer."""
        taken = list(self.answers)
        self.answers.clear()
        return taken

    async def __call__(self, sampler: SamplingClient) -> Mapping[str, float]:
        self.answers.clear()
        config = self.config
        prompts = list(self.prompts)
        asked = [
            sampler.sample(
                self.renderer.build_generation_prompt(prompt.messages),
                config.num_samples,
                SamplingParams(
                    max_tokens=config.max_tokens,
                    temperature=config.temperature,
                    seed=config.seed + place,
                    stop=self.renderer.get_stop_sequences(),
                ),
            )
            for place, prompt in enumerate(prompts)
        ]
        scores: list[float] = []
        num_clean = num_tokens = 0
        for prompt, future in zip(prompts, asked, strict=True):
            for sequence in (await future).sequences:
                reply = self.renderer.parse_response(sequence.tokens)
                text = content_text(reply.message)
                score = self.grader(text, prompt.answer)
                scores.append(score)
                num_clean += reply.termination.is_clean
                num_tokens += len(sequence.tokens)
                self.answers.append(Answer(prompt.messages, text, prompt.answer, score))
        return {
            names.SAMPLE_SCORE: sum(scores) / len(scores),
            names.SAMPLE_ENDED: num_clean / len(scores),
            names.SAMPLE_TOKENS: num_tokens / len(scores),
        }
