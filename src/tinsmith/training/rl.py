"""Reinforcement learning on prompts with graded answers, through the SDK.

`train(config)` is the run, `run(config)` its synchronous face. Reading order: `prepare` (prompts
and reward), `RLObjective` (what a step does: answer, grade, train), `PolicyLoss`, `run.start`. A
step answers its prompts with the weights of the moment, so nothing is sent ahead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.algorithms.advantages import group_centred, group_standardised
from tinsmith.algorithms.kl import kl_k1, kl_k2, kl_k3
from tinsmith.core.errors import ConfigError
from tinsmith.data import Prompt, read_prompts
from tinsmith.data.rows import content_sha256, row_error
from tinsmith.renderers import Renderer
from tinsmith.renderers.messages import RendererError, content_text
from tinsmith.training import names
from tinsmith.training.batches import Batch, BatchPlan, weight_scales
from tinsmith.training.graders import GRADERS, Grader, get_grader
from tinsmith.training.job import Job, Method, Opening, make_job, open_renderer
from tinsmith.training.rl_config import RLConfig
from tinsmith.training.rollouts import MASK, Group, RolloutMaker, datum_of
from tinsmith.training.run import Extras, RunResult, start, wait_for
from tinsmith.training.sampling_evaluators import AnyEvaluator
from tinsmith.training.saving import Stateful
from tinsmith.training.terms import Terms, configured_terms, open_terms
from tinsmith.types import Datum, LossFnOutput, TensorData

if TYPE_CHECKING:
    import torch

    from tinsmith.client import TrainingClient
    from tinsmith.telemetry import TranscriptWriter
    from tinsmith.training.terms import Future

_COLUMNS = (
    names.REWARD_MEAN,
    names.REWARD_STD,
    names.GROUP_MIXED_FRACTION,
    names.ROLLOUT_TOKENS,
    names.POLICY_ENTROPY,
    names.POLICY_KL_K3,
    f"{names.OPTIM_PREFIX}grad_norm",
)
_LOSS_INPUTS = ("logprobs", "advantages")
_ADVANTAGES = {"centred": group_centred, "standardised": group_standardised}


def run(config: RLConfig, *, reward: Grader | None = None, **given: Any) -> RunResult:
    """`train`, waited for; works inside a running event loop (a notebook), too.

    Args:
        config: The run.
        reward: As in `train`.
        given: Fields of `Extras`.
    """
    return wait_for(lambda: train(config, reward=reward, **given))


async def train(config: RLConfig, *, reward: Grader | None = None, **given: Any) -> RunResult:
    """Train an adapter on the rewards of its answers, or go on where a run stopped.

    Args:
        config: The run.
        reward: Reward of an answer's text, given the one in the data, in place of `config.reward`.
            A resumed run must be given the same.
        given: Fields of `Extras`: `recorder`, `evaluators`, `infrequent_evaluators`, `stateful`
            and `service`.

    Raises:
        DataError: The prompts cannot be read or rendered; names file and line.
        ConfigError: The configuration contradicts itself, the data or the run directory.
        TrainingDivergedError: The policy's log-probabilities are not finite.
    """
    return await start(await asyncio.to_thread(prepare, config, reward), Extras(**given))


def prepare(config: RLConfig, reward: Grader | None = None) -> Job:
    """Read and check the prompts, and lay out the steps.

    Raises:
        DataError: The prompts cannot be read or rendered; names file and line.
        ConfigError: The configuration contradicts itself, or names no reward.
    """
    terms = configured_terms(config, mask=MASK)
    grader = _find_reward(config, reward)
    prompts = read_prompts(config.data)
    renderer = open_renderer(config)
    for prompt in prompts:
        _check_prompt(prompt, renderer, config)
    plan = BatchPlan(len(prompts), config.batch_size, config.seed)
    maker = RolloutMaker(config, renderer, grader)

    async def open_objective(opening: Opening) -> RLObjective:
        opened = await open_terms(opening.service, config, terms)
        return RLObjective(maker, prompts, plan, opening.client, opened)

    described = {"sha256": content_sha256(prompts), "num_prompts": len(prompts)}
    return make_job(
        config, Method("rl", open_objective, _COLUMNS, "reward"), plan, renderer, described
    )


@dataclass(frozen=True)
class PolicyLoss:
    """A loss of the service, summed over sampled tokens, where regularizers are added to it.

    Attributes:
        name: Of the loss in `algorithms.losses`.
        config: Its settings.
    """

    name: str
    config: Mapping[str, float]

    def __call__(
        self, data: Sequence[Datum], logprobs: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        losses = [found.sum() for found, _ in self._of_tokens(data, logprobs)]
        return sum(losses[1:], losses[0]), {}

    def metrics(
        self, batch: Batch, logprobs: Sequence[torch.Tensor], num_tokens: int
    ) -> dict[str, float]:
        """The mean loss of a step's updates, and which part of its sampled tokens is clipped."""
        of_tokens = self._of_tokens(batch.datums, logprobs)
        total = sum(float(found.double().sum()) for found, _ in of_tokens)
        metrics = {names.TRAIN_LOSS: total / len(batch.updates)}
        if any("clipped_tokens" in told for _, told in of_tokens):
            num_clipped = sum(float(told["clipped_tokens"].sum()) for _, told in of_tokens)
            metrics[names.POLICY_CLIP_FRACTION] = num_clipped / num_tokens
        return metrics

    def _of_tokens(
        self, data: Sequence[Datum], logprobs: Sequence[torch.Tensor]
    ) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        from tinsmith.algorithms.losses import find_loss

        loss = find_loss(self.name).fn
        return [
            loss(
                tensor,
                {name: datum.loss_fn_inputs[name].to_torch() for name in _LOSS_INPUTS},
                self.config,
            )
            for datum, tensor in zip(data, logprobs, strict=True)
        ]


@dataclass(frozen=True)
class RLObjective:
    """Rollouts of the current policy, and the loss that makes better ones likelier.

    Attributes:
        maker: How prompts are answered and graded.
        prompts: All of them.
        plan: Which ones a step asks.
        client: The model that answers and is trained.
        terms: Added to the loss; without any the service computes it alone, in one pass.
        shown: The groups of the newest batch, for the transcript.
    """

    maker: RolloutMaker
    prompts: Sequence[Prompt]
    plan: BatchPlan
    client: TrainingClient
    terms: Terms
    shown: list[Group] = field(default_factory=list[Group])
    num_ahead: int = 0
    is_on_policy: bool = True
    evaluators: Sequence[AnyEvaluator] = ()
    stateful: Mapping[str, Stateful] = field(default_factory=dict[str, Stateful])

    @property
    def config(self) -> RLConfig:
        return self.maker.config

    @property
    def loss(self) -> PolicyLoss:
        return PolicyLoss(self.config.loss, self.config.loss_config)

    async def build(self, step: int) -> Batch:
        """Answer the step's prompts with the weights as they are, and grade the answers."""
        started = time.perf_counter()
        sampler = await self.client.save_weights_and_get_sampling_client()
        prompts = [self.prompts[index] for index in self.plan.indices(step)]
        groups = await self.maker.make(sampler, prompts, step)
        self.shown[:] = groups
        trained = trained_groups(groups, keep_constant=self.config.keep_constant_groups)
        metrics = {
            **rollout_metrics(groups),
            names.GROUP_NUM_TRAINED: len(trained),
            names.TIME_SAMPLE_S: time.perf_counter() - started,
        }
        return Batch(make_updates(trained, self.config), metrics)

    def submit(self, client: TrainingClient, datums: Sequence[Datum], epoch: float) -> Future:
        if self.terms:
            return self.terms.submit(client, datums, self.loss, epoch)
        sent = [_without_mask(datum) for datum in datums]
        return client.forward_backward(sent, self.config.loss, self.config.loss_config)

    def measure(self, batch: Batch, outputs: Sequence[LossFnOutput]) -> Mapping[str, float]:
        sampled = _of_sampled(batch.datums, [d.loss_fn_inputs["logprobs"] for d in batch.datums])
        trained = _of_sampled(batch.datums, [row["logprobs"] for row in outputs])
        logprobs = [row["logprobs"].to_torch() for row in outputs]
        return {
            **self.loss.metrics(batch, logprobs, len(sampled)),
            names.TRAIN_NUM_LOSS_TOKENS: len(sampled),
            names.POLICY_ENTROPY: float(-sampled.mean()),
            names.POLICY_KL_K1: float(kl_k1(sampled, trained).mean()),
            names.POLICY_KL_K2: float(kl_k2(sampled, trained).mean()),
            names.POLICY_KL_K3: float(kl_k3(sampled, trained).mean()),
        }

    def show_data(self, page: TranscriptWriter) -> None:
        """Nothing: what is trained on is what the model will say."""

    def show_batch(self, page: TranscriptWriter, step: int) -> None:
        """Show the answers to the batch's first prompt."""
        page.heading(f"Step {step}: answers to the first prompt, before its update")
        for group in self.shown[:1]:
            asked = [(m["role"], content_text(m)) for m in group.prompt.messages]
            for rollout in group.rollouts:
                page.conversation(
                    f"reward {rollout.reward:g}: {rollout.text[:80]}",
                    [*asked, ("assistant", rollout.text), ("expected", group.prompt.answer)],
                )


def trained_groups(groups: Sequence[Group], *, keep_constant: bool) -> list[Group]:
    """Groups with something to teach: those whose rewards differ, or the first if none has."""
    if keep_constant:
        return list(groups)
    return [group for group in groups if group.is_mixed] or list(groups[:1])


def make_updates(groups: Sequence[Group], config: RLConfig) -> tuple[tuple[Datum, ...], ...]:
    """The datums of each optimizer update: groups in order, split as evenly as they go."""
    num_updates = min(config.num_substeps, len(groups))
    edges = [len(groups) * place // num_updates for place in range(num_updates + 1)]
    return tuple(_make_update(groups[start:end], config) for start, end in pairwise(edges))


def _make_update(groups: Sequence[Group], config: RLConfig) -> tuple[Datum, ...]:
    """Datums whose advantages carry the normalisation of the loss."""
    advantage = _ADVANTAGES[config.advantage]
    rows = [
        (group, rollout, float(value))
        for group in groups
        for rollout, value in zip(group.rollouts, advantage(group.rewards), strict=True)
    ]
    counts = [len(rollout.tokens) for _, rollout, _ in rows]
    scales = weight_scales(counts, config.loss_normalisation)
    return tuple(
        datum_of(group, rollout, value * scale)
        for (group, rollout, value), scale in zip(rows, scales, strict=True)
    )


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """What a step's answers were worth, of all its groups."""
    rewards = np.concatenate([group.rewards for group in groups])
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {
        names.REWARD_MEAN: float(rewards.mean()),
        names.REWARD_STD: float(rewards.std()),
        names.REWARD_MIN: float(rewards.min()),
        names.REWARD_MAX: float(rewards.max()),
        names.GROUP_MIXED_FRACTION: sum(group.is_mixed for group in groups) / len(groups),
        names.ROLLOUT_NUM: len(rollouts),
        names.ROLLOUT_ENDED: sum(rollout.has_ended for rollout in rollouts) / len(rollouts),
        names.ROLLOUT_TOKENS: sum(len(rollout.tokens) for rollout in rollouts) / len(rollouts),
    }


def _of_sampled(data: Sequence[Datum], values: Sequence[TensorData]) -> NDArray[np.float64]:
    """The values of sampled tokens alone, in order, of one array a datum."""
    return np.concatenate(
        [
            array.to_numpy()[datum.loss_fn_inputs[MASK].to_numpy() != 0].astype(np.float64)
            for datum, array in zip(data, values, strict=True)
        ]
    )


def _without_mask(datum: Datum) -> Datum:
    inputs = {name: value for name, value in datum.loss_fn_inputs.items() if name != MASK}
    return Datum(model_input=datum.model_input, loss_fn_inputs=inputs)


def _find_reward(config: RLConfig, given: Grader | None) -> Grader:
    if given is not None and config.reward is not None:
        raise ConfigError(
            f"reward={config.reward!r}: a function is given, too", field="reward", hint="keep one"
        )
    if given is not None:
        return given
    if config.reward is None:
        raise ConfigError(
            "reward: is missing",
            field="reward",
            hint=f"name one: {', '.join(GRADERS)}, or that of an installed package",
        )
    return get_grader(config.reward)


def _check_prompt(prompt: Prompt, renderer: Renderer, config: RLConfig) -> None:
    """Refuse what the format cannot express, or leaves no room for an answer.

    Raises:
        DataError: `path:line: what is wrong`.
    """
    try:
        model_input = renderer.build_generation_prompt(prompt.messages)
    except RendererError as error:
        raise row_error(prompt.path, prompt.line, error.message, error.hint) from error
    others = {chunk.type for chunk in model_input.chunks} - {"encoded_text"}
    if others:
        raise row_error(
            prompt.path,
            prompt.line,
            f"the prompt holds {', '.join(sorted(others))}: training takes text only",
            "remove the line, or the parts that are not text",
        )
    limit = getattr(renderer.tokenizer, "model_max_length", None)
    if limit is not None and model_input.length + config.max_tokens > limit:
        raise row_error(
            prompt.path,
            prompt.line,
            f"the prompt has {model_input.length} tokens and may be answered with "
            f"max_tokens={config.max_tokens}: {config.model} reads at most {int(limit)}",
            "lower max_tokens, or remove the line",
        )
