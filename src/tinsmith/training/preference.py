"""Direct preference optimization on comparisons, through the SDK.

`train(config)` is the run, `run(config)` its synchronous face. Reading order: `prepare` (data and
batches), `DPOLoss`, `PreferenceObjective` (what a step does), `run.start`. Datums come in pairs:
better answer, worse answer, better answer, ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tinsmith.core.errors import DataError
from tinsmith.data import PreferenceDataset, load_comparisons
from tinsmith.data.preferences import pair_of
from tinsmith.data.report import NUM_EXAMPLES, split_by_training
from tinsmith.data.supervised import ExampleFormat
from tinsmith.renderers import TrainOnWhat
from tinsmith.training import names
from tinsmith.training.batches import Batch, BatchPlan
from tinsmith.training.evaluators import sum_nll
from tinsmith.training.job import Job, Method, Opening, make_job, open_renderer
from tinsmith.training.preference_config import PreferenceConfig
from tinsmith.training.reference import REFERENCE_LOGPROBS, STATE, Reference
from tinsmith.training.run import Extras, RunResult, start, wait_for
from tinsmith.training.terms import Terms, configured_terms, open_terms
from tinsmith.types import Datum, LossFnOutput

if TYPE_CHECKING:
    import torch

    from tinsmith.algorithms.preference import DPO
    from tinsmith.client import TrainingClient
    from tinsmith.telemetry import TranscriptWriter
    from tinsmith.training.terms import Future

_COLUMNS = (
    names.TRAIN_LOSS,
    names.TRAIN_PAIR_ACCURACY,
    names.TRAIN_MARGIN,
    names.EVAL_PAIR_ACCURACY,
    names.OPTIM_LEARNING_RATE,
    f"{names.OPTIM_PREFIX}grad_norm",
    names.PROGRESS_EPOCH,
)


def run(config: PreferenceConfig, **given: Any) -> RunResult:
    """`train`, waited for; works inside a running event loop (a notebook), too.

    Args:
        config: The run.
        given: Fields of `Extras`.
    """
    return wait_for(lambda: train(config, **given))


async def train(config: PreferenceConfig, **given: Any) -> RunResult:
    """Train an adapter to prefer better answers, or go on where an interrupted run stopped.

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


def prepare(config: PreferenceConfig) -> Job:
    """Read and check the comparisons, and lay out the steps.

    Raises:
        DataError: The data cannot be trained on; names file and line.
        ConfigError: The configuration contradicts itself or the data.
    """
    # A term that wants a reference finds that of DPO in the batch, which costs nothing more.
    terms = configured_terms(config, mask="weights", reference=REFERENCE_LOGPROBS)
    data = load_comparisons(
        config.data, test_size=config.test_size, test_data=config.test_data, seed=config.seed
    )
    renderer = open_renderer(config, max_length=config.max_length)
    form = ExampleFormat(renderer, TrainOnWhat.CUSTOMIZED, config.max_length, config.on_too_long)
    dataset = PreferenceDataset.from_comparisons(data.train, form)
    if not len(dataset):
        raise DataError(
            f"{config.data}: none of {dataset.counts.num_offered} comparisons can be trained on",
            field="data",
            file=config.data,
            hint="raise max_length",
        )
    held_out = {
        name: PreferenceDataset.from_comparisons(rows, form) for name, rows in data.held_out.items()
    }
    has_held_out = any(map(len, held_out.values()))
    plan = BatchPlan(len(dataset), config.batch_size, config.seed)

    async def open_objective(opening: Opening) -> PreferenceObjective:
        reference = await Reference.open(opening)
        opened = await open_terms(opening.service, config, terms)
        evaluator = PairEvaluator(config, held_out, reference)
        return PreferenceObjective(config, dataset, plan, reference, opened, evaluator)

    described = {
        "sha256": data.sha256,
        "num_duplicates_dropped": data.num_duplicates_dropped,
        "train": asdict(dataset.counts),
        "test": {name: asdict(rows.counts) for name, rows in held_out.items()},
    }
    method = Method("dpo", open_objective, _COLUMNS, "loss")
    return make_job(config, method, plan, renderer, described, has_held_out=has_held_out)


@dataclass(frozen=True)
class DPOLoss:
    """The mean DPO loss of a batch of pairs; `algorithms.preference` has the formulas.

    Attributes:
        beta: Of the reward.
        label_smoothing: Probability that a label is wrong.
        is_length_normalised: Whether an answer's tokens are averaged.
    """

    beta: float
    label_smoothing: float = 0.0
    is_length_normalised: bool = False

    @classmethod
    def from_config(cls, config: PreferenceConfig) -> DPOLoss:
        return cls(config.beta, config.label_smoothing, config.length_normalised)

    def __call__(
        self, data: Sequence[Datum], logprobs: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return self.pairs(data, logprobs).losses.mean(), {}

    def pairs(self, data: Sequence[Datum], logprobs: Sequence[torch.Tensor]) -> DPO:
        """Losses and rewards of every pair, in float64.

        Args:
            data: Datums in pairs, with `weights` and `reference_logprobs`.
            logprobs: Of each datum's targets.
        """
        import torch

        from tinsmith.algorithms.preference import answer_logprobs, dpo

        log_ratios = torch.stack(
            [
                answer_logprobs(
                    tensor.double() - datum.loss_fn_inputs[REFERENCE_LOGPROBS].to_torch(),
                    datum.loss_fn_inputs["weights"].to_torch(),
                    is_length_normalised=self.is_length_normalised,
                )
                for datum, tensor in zip(data, logprobs, strict=True)
            ]
        )
        return dpo(
            log_ratios[::2],
            log_ratios[1::2],
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )


def pair_metrics(
    loss: DPOLoss, data: Sequence[Datum], outputs: Sequence[LossFnOutput]
) -> dict[str, float]:
    """Metrics of pairs, from the logprobs that came back for them."""
    pairs = loss.pairs(data, [output["logprobs"].to_torch() for output in outputs])
    chosen_nll, num_chosen = sum_nll(data[::2], outputs[::2])
    rejected_nll, num_rejected = sum_nll(data[1::2], outputs[1::2])
    return {
        names.TRAIN_LOSS: float(pairs.losses.mean()),
        names.TRAIN_PAIR_ACCURACY: float((pairs.margins > 0).double().mean()),
        names.TRAIN_MARGIN: float(pairs.margins.mean()),
        names.TRAIN_CHOSEN_REWARD: float(pairs.chosen_rewards.mean()),
        names.TRAIN_REJECTED_REWARD: float(pairs.rejected_rewards.mean()),
        names.TRAIN_NLL: chosen_nll / num_chosen,
        names.TRAIN_REJECTED_NLL: rejected_nll / num_rejected,
        names.TRAIN_NUM_PAIRS: len(data) // 2,
    }


@dataclass(frozen=True)
class PreferenceObjective:
    """The DPO loss, alone or with regularizers.

    Attributes:
        config: Of the run.
        dataset: What is trained on.
        plan: Which comparisons a step trains on.
        reference: The initial weights.
        terms: Added to the loss.
        evaluator: Of held-out comparisons.
    """

    config: PreferenceConfig
    dataset: PreferenceDataset
    plan: BatchPlan
    reference: Reference
    terms: Terms
    evaluator: PairEvaluator
    is_on_policy: bool = False

    @property
    def num_ahead(self) -> int:
        return self.config.submit_ahead

    @property
    def evaluators(self) -> Sequence[PairEvaluator]:
        return (self.evaluator,) if any(map(len, self.evaluator.held_out.values())) else ()

    @property
    def stateful(self) -> Mapping[str, Reference]:
        return {STATE: self.reference}

    async def build(self, step: int) -> Batch:
        """Render both answers of the step's comparisons, and ask the reference about them."""
        datums = await asyncio.to_thread(pair_datums, self.dataset, self.plan.indices(step))
        with_reference = tuple(await self.reference.add_logprobs(datums))
        num_loss_tokens = sum(_num_loss_tokens(datum) for datum in datums)
        return Batch((with_reference,), {names.TRAIN_NUM_LOSS_TOKENS: num_loss_tokens})

    def submit(self, client: TrainingClient, datums: Sequence[Datum], epoch: float) -> Future:
        return self.terms.submit(client, datums, DPOLoss.from_config(self.config), epoch)

    def measure(self, batch: Batch, outputs: Sequence[LossFnOutput]) -> Mapping[str, float]:
        return pair_metrics(DPOLoss.from_config(self.config), batch.datums, outputs)

    def show_data(self, page: TranscriptWriter) -> None:
        """Show some comparisons with what is compared marked."""
        page.heading("Training examples; what is compared is marked")
        form = self.dataset.form
        for comparison in self.dataset.comparisons[:NUM_EXAMPLES]:
            for name, conversation in pair_of(comparison)._asdict().items():
                pieces = split_by_training(form.render(conversation), form)
                page.marked(
                    f"{comparison.path}:{comparison.line}, {name}",
                    [(p.text, p.is_trained) for p in pieces],
                )

    def show_batch(self, page: TranscriptWriter, step: int) -> None:
        """Nothing: a batch is data, which is shown once."""


class _ScoredBatch(NamedTuple):
    """Datums as they are sent, and the same with the reference's logprobs."""

    datums: list[Datum]
    scored: list[Datum]


@dataclass(frozen=True)
class PairEvaluator:
    """Loss, accuracy, margin and rewards of held-out comparisons, by forward passes alone.

    Attributes:
        config: Of the run.
        held_out: Comparisons by name; those with a name have metrics of their own, too.
        reference: The initial weights.
        batches: Datums with the reference's logprobs, made at the first evaluation.
    """

    config: PreferenceConfig
    held_out: Mapping[str, PreferenceDataset]
    reference: Reference
    batches: dict[str, list[_ScoredBatch]] = field(default_factory=dict)

    async def __call__(self, client: TrainingClient) -> Mapping[str, float]:
        for name, dataset in self.held_out.items():
            if name not in self.batches and len(dataset):
                self.batches[name] = await self._make_batches(dataset)
        asked = {
            name: [client.forward(batch.datums, "cross_entropy") for batch in batches]
            for name, batches in self.batches.items()
        }
        found: dict[str, tuple[list[Datum], list[LossFnOutput]]] = {"": ([], [])}
        for name, batches in self.batches.items():
            data = [datum for batch in batches for datum in batch.scored]
            outputs = [row for future in asked[name] for row in (await future).loss_fn_outputs]
            found[""][0].extend(data)
            found[""][1].extend(outputs)
            if name:
                found[name] = data, outputs
        metrics: dict[str, float] = {}
        for name, (data, outputs) in found.items():
            metrics |= self._metrics(name, data, outputs)
        return metrics

    async def _make_batches(self, dataset: PreferenceDataset) -> list[_ScoredBatch]:
        size = self.config.batch_size
        batches: list[_ScoredBatch] = []
        for first in range(0, len(dataset), size):
            places = range(first, min(first + size, len(dataset)))
            datums = await asyncio.to_thread(pair_datums, dataset, places)
            batches.append(_ScoredBatch(datums, await self.reference.add_logprobs(datums)))
        return batches

    def _metrics(
        self, name: str, data: Sequence[Datum], outputs: Sequence[LossFnOutput]
    ) -> dict[str, float]:
        metrics = pair_metrics(DPOLoss.from_config(self.config), data, outputs)
        return {
            names.of_set(names.of_area(metric, "eval"), name): value
            for metric, value in metrics.items()
        }


def pair_datums(dataset: PreferenceDataset, indices: Sequence[int]) -> list[Datum]:
    """Better answer, worse answer, and so on."""
    return [built.datum for pair in dataset.build(indices) for built in pair]


def _num_loss_tokens(datum: Datum) -> int:
    return int((datum.loss_fn_inputs["weights"].to_numpy() != 0).sum())
