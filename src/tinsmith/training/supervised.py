"""Supervised fine-tuning on conversations, through the SDK.

`train(config)` is the run, `run(config)` its synchronous face. Reading order: `prepare` (data and
batches, before any service is started), `SupervisedObjective` (what a step does), `run.start`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.data import SupervisedDataset, load_training_data
from tinsmith.data.report import NUM_EXAMPLES, split_by_training
from tinsmith.data.supervised import ExampleFormat
from tinsmith.renderers import TrainOnWhat
from tinsmith.training import names
from tinsmith.training.batches import Batch, BatchPlan, scaled, weight_scales
from tinsmith.training.config import SupervisedConfig
from tinsmith.training.evaluators import NLLEvaluator, sum_nll
from tinsmith.training.job import Job, Method, Opening, make_job, open_renderer
from tinsmith.training.run import Extras, RunResult, start, wait_for
from tinsmith.training.sampling_evaluators import AccuracyEvaluator, AnyEvaluator
from tinsmith.training.saving import Stateful
from tinsmith.training.terms import Terms, configured_terms, open_terms
from tinsmith.types import Datum, LossFnOutput

if TYPE_CHECKING:
    import torch

    from tinsmith.client import TrainingClient
    from tinsmith.telemetry import TranscriptWriter
    from tinsmith.training.terms import Future

_NEED_ASSISTANT = (
    TrainOnWhat.LAST_ASSISTANT_MESSAGE,
    TrainOnWhat.LAST_ASSISTANT_TURN,
    TrainOnWhat.ALL_ASSISTANT_MESSAGES,
)
_COLUMNS = (
    names.TRAIN_NLL,
    names.EVAL_NLL,
    names.OPTIM_LEARNING_RATE,
    f"{names.OPTIM_PREFIX}grad_norm",
    names.PROGRESS_EPOCH,
    names.THROUGHPUT_TOKENS_PER_S,
)


def run(config: SupervisedConfig, **given: Any) -> RunResult:
    """`train`, waited for; works inside a running event loop (a notebook), too.

    Args:
        config: The run.
        given: Fields of `Extras`.
    """
    return wait_for(lambda: train(config, **given))


async def train(config: SupervisedConfig, **given: Any) -> RunResult:
    """Fine-tune an adapter as `config` says, or go on where an interrupted run stopped.

    Args:
        config: The run.
        given: Fields of `Extras`: `recorder`, `evaluators`, `infrequent_evaluators`, `stateful`
            and `service`.

    Raises:
        DataError: The data cannot be trained on; names file and line.
        ConfigError: The configuration contradicts itself, the data or the run directory.
        TrainingDivergedError: The loss is not finite.
    """
    return await start(await asyncio.to_thread(prepare, config), Extras(**given))


def prepare(config: SupervisedConfig) -> Job:
    """Read and check the data, and lay out the steps.

    Raises:
        DataError: The data cannot be trained on; names file and line.
        ConfigError: The configuration contradicts itself or the data.
    """
    terms = configured_terms(config, mask="weights")
    data = load_training_data(
        config.data,
        test_size=config.test_size,
        test_data=config.test_data,
        seed=config.seed,
        deduplicate=config.deduplicate,
        require_assistant=config.train_on_what in _NEED_ASSISTANT,
    )
    renderer = open_renderer(config, max_length=config.max_length)
    form = ExampleFormat(renderer, config.train_on_what, config.max_length, config.on_too_long)
    dataset = SupervisedDataset.from_conversations(data.train, form)
    if not len(dataset):
        raise DataError(
            f"{config.data}: none of {dataset.counts.num_offered} conversations can be trained on",
            field="data",
            file=config.data,
            hint="raise max_length, or choose another train_on_what",
        )
    held_out = {
        name: SupervisedDataset.from_conversations(rows, form)
        for name, rows in data.held_out.items()
    }
    has_held_out = any(map(len, held_out.values()))
    _check_evaluation(config, has_held_out=has_held_out)
    plan = _make_plan(config, dataset)

    async def open_objective(opening: Opening) -> SupervisedObjective:
        evaluators = await asyncio.to_thread(_held_out_evaluators, config, held_out)
        opened = await open_terms(opening.service, config, terms)
        return SupervisedObjective(config, dataset, plan, terms=opened, evaluators=evaluators)

    method = Method("sft", open_objective, _COLUMNS, "loss")
    described = {
        "sha256": data.sha256,
        "num_repeats_dropped": data.num_repeats_dropped,
        "num_duplicates_dropped": data.num_duplicates_dropped,
        "train": asdict(dataset.counts),
        "test": {name: asdict(rows.counts) for name, rows in held_out.items()},
    }
    return make_job(config, method, plan, renderer, described, has_held_out=has_held_out)


@dataclass(frozen=True)
class SupervisedObjective:
    """Cross-entropy of the trained tokens, alone or with regularizers.

    Attributes:
        config: Of the run.
        dataset: What is trained on.
        plan: Which conversations a step trains on.
        terms: Added to the cross-entropy; without any the service computes it alone, in one pass.
        evaluators: Of held-out conversations.
    """

    config: SupervisedConfig
    dataset: SupervisedDataset
    plan: BatchPlan
    terms: Terms
    evaluators: Sequence[AnyEvaluator]
    is_on_policy: bool = False
    stateful: Mapping[str, Stateful] = field(default_factory=dict[str, Stateful])

    @property
    def num_ahead(self) -> int:
        return self.config.submit_ahead

    async def build(self, step: int) -> Batch:
        """Render the batch of a step and normalise its weights."""
        return await asyncio.to_thread(self._build, step)

    def _build(self, step: int) -> Batch:
        built = self.dataset.build(self.plan.indices(step))
        counts = [item.num_loss_tokens for item in built]
        scales = weight_scales(counts, self.config.loss_normalisation)
        datums = tuple(scaled(item.datum, scale) for item, scale in zip(built, scales, strict=True))
        return Batch((datums,), {names.TRAIN_NUM_LOSS_TOKENS: sum(counts)})

    def submit(self, client: TrainingClient, datums: Sequence[Datum], epoch: float) -> Future:
        if not self.terms:
            return client.forward_backward(datums, "cross_entropy")
        return self.terms.submit(client, datums, weighted_nll, epoch)

    def measure(self, batch: Batch, outputs: Sequence[LossFnOutput]) -> Mapping[str, float]:
        nll, num_loss_tokens = sum_nll(batch.datums, outputs)
        return {names.TRAIN_NLL: nll / num_loss_tokens}

    def show_data(self, page: TranscriptWriter) -> None:
        """Show some conversations with what is trained marked."""
        page.heading("Training examples; what is trained is marked")
        for conversation in self.dataset.conversations[:NUM_EXAMPLES]:
            form = self.dataset.form
            pieces = split_by_training(form.render(conversation), form)
            page.marked(
                f"{conversation.path}:{conversation.line}", [(p.text, p.is_trained) for p in pieces]
            )

    def show_batch(self, page: TranscriptWriter, step: int) -> None:
        """Nothing: a batch is data, which is shown once."""


def weighted_nll(
    data: Sequence[Datum], logprobs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    """`-sum(weights * logprobs)`, the loss that the service calls `cross_entropy`."""
    losses = [
        -(datum.loss_fn_inputs["weights"].to_torch() * tensor).sum()
        for datum, tensor in zip(data, logprobs, strict=True)
    ]
    return sum(losses[1:], losses[0]), {}


def _make_plan(config: SupervisedConfig, dataset: SupervisedDataset) -> BatchPlan:
    """The batches, by conversations or by tokens."""
    lengths: tuple[int, ...] = ()
    if config.batch_tokens is not None:
        places = range(len(dataset))
        lengths = tuple(dataset.build([i])[0].datum.model_input.length for i in places)
    return BatchPlan(len(dataset), config.batch_size, config.seed, config.batch_tokens, lengths)


def _held_out_evaluators(
    config: SupervisedConfig, held_out: Mapping[str, SupervisedDataset]
) -> list[AnyEvaluator]:
    if not any(map(len, held_out.values())):
        return []
    nll = NLLEvaluator.from_datasets(held_out, config.batch_size)
    return [nll, AccuracyEvaluator.from_sets(nll.sets)] if config.eval_accuracy else [nll]


def _check_evaluation(config: SupervisedConfig, *, has_held_out: bool) -> None:
    """Refuse measures that nothing could be measured on."""
    if has_held_out:
        return
    if config.eval_accuracy:
        raise ConfigError(
            "eval_accuracy=True: there is no held-out data",
            field="eval_accuracy",
            hint="set test_size or test_data",
        )
    if config.best_metric is not None and config.best_metric.startswith(names.EVAL_NLL):
        raise ConfigError(
            f"best_metric={config.best_metric!r}: there is no held-out data",
            field="best_metric",
            hint="set test_size or test_data",
        )
