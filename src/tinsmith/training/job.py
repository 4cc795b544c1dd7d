"""What is known of a supervised run before a service is asked: data, batches, schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tinsmith.algorithms.schedules import Schedule, make_schedule
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.data import SupervisedDataset, TrainingData, load_training_data
from tinsmith.data.supervised import ExampleFormat
from tinsmith.regularizers import Regularizer
from tinsmith.renderers import TrainOnWhat, get_renderer, get_tokenizer, recommended_renderer
from tinsmith.telemetry.wandb_recorder import require_wandb
from tinsmith.training.batches import BatchPlan
from tinsmith.training.config import SupervisedConfig
from tinsmith.training.objective import configured_terms
from tinsmith.training.sampling_evaluators import AnswerEvaluator

_NEED_ASSISTANT = (
    TrainOnWhat.LAST_ASSISTANT_MESSAGE,
    TrainOnWhat.LAST_ASSISTANT_TURN,
    TrainOnWhat.ALL_ASSISTANT_MESSAGES,
)


@dataclass(frozen=True)
class Job:
    """A run's data and steps.

    Attributes:
        config: What was asked for.
        data: The conversations.
        plan: The batch of every step.
        held_out: What is evaluated on, by name.
        schedule: Learning-rate multiplier of every step.
        num_steps: Steps of the run.
        renderer_name: The chat format.
        answers: Prompts that are answered and graded, if any.
        terms: Regularizers, which may refer to models that are not open yet.
    """

    config: SupervisedConfig
    data: TrainingData
    plan: BatchPlan
    held_out: Mapping[str, SupervisedDataset]
    schedule: Schedule
    num_steps: int
    renderer_name: str
    answers: AnswerEvaluator | None = None
    terms: tuple[Regularizer, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The data as JSON values, for `config.json`."""
        return {
            "sha256": self.data.sha256,
            "num_repeats_dropped": self.data.num_repeats_dropped,
            "num_duplicates_dropped": self.data.num_duplicates_dropped,
            "renderer": self.renderer_name,
            "num_steps": self.num_steps,
            "batches_per_epoch": self.plan.batches_per_epoch,
            "train": asdict(self.plan.dataset.counts),
            "test": {name: asdict(held_out.counts) for name, held_out in self.held_out.items()},
        }


def prepare(config: SupervisedConfig) -> Job:
    """Read and check the data, and lay out the steps.

    Raises:
        DataError: The data cannot be trained on; names file and line.
        ConfigError: The configuration contradicts itself or the data.
        MissingExtraError: It asks for W&B, which is not installed.
    """
    if config.wandb:
        require_wandb()
    terms = configured_terms(config)
    data = load_training_data(
        config.data,
        test_size=config.test_size,
        test_data=config.test_data,
        seed=config.seed,
        deduplicate=config.deduplicate,
        require_assistant=config.train_on_what in _NEED_ASSISTANT,
    )
    tokenizer = get_tokenizer(config.model)
    _check_max_length(config, tokenizer)
    renderer_name = config.renderer or recommended_renderer(config.model, tokenizer)
    renderer = get_renderer(renderer_name, tokenizer)
    form = ExampleFormat(renderer, config.train_on_what, config.max_length, config.on_too_long)
    dataset = SupervisedDataset.from_conversations(data.train, form)
    if not len(dataset):
        raise DataError(
            f"{config.data}: none of {dataset.counts.num_offered} conversations can be trained on",
            field="data",
            file=config.data,
            hint="raise max_length, or choose another train_on_what",
        )
    plan = make_plan(config, dataset)
    num_steps = config.num_steps or plan.num_steps(config.num_epochs)
    num_steps = min(num_steps, config.max_steps or num_steps)
    held_out = {
        name: SupervisedDataset.from_conversations(rows, form)
        for name, rows in data.held_out.items()
    }
    answers = None
    if config.sample_eval.data is not None:
        answers = AnswerEvaluator.from_config(config.sample_eval, renderer)
    _check_evaluation(config, has_held_out=any(map(len, held_out.values())))
    return Job(
        config=config,
        data=data,
        plan=plan,
        held_out=held_out,
        schedule=_schedule(config, num_steps),
        num_steps=num_steps,
        renderer_name=renderer_name,
        answers=answers,
        terms=terms,
    )


def make_plan(config: SupervisedConfig, dataset: SupervisedDataset) -> BatchPlan:
    """The batches, by conversations or by tokens."""
    lengths: tuple[int, ...] = ()
    if config.batch_tokens is not None:
        places = range(len(dataset))
        lengths = tuple(dataset.build([i])[0].datum.model_input.length for i in places)
    return BatchPlan(
        dataset,
        config.batch_size,
        config.seed,
        config.loss_normalisation,
        config.batch_tokens,
        lengths,
    )


def _schedule(config: SupervisedConfig, num_steps: int) -> Schedule:
    warmup_steps = config.warmup_steps
    if config.warmup_fraction:
        if warmup_steps:
            raise ConfigError(
                "warmup_fraction: warmup_steps is set, too",
                field="warmup_fraction",
                hint="keep one",
            )
        warmup_steps = int(config.warmup_fraction * num_steps)
    return make_schedule(
        config.lr_schedule, num_steps, warmup_steps, final_fraction=config.final_lr_fraction
    )


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
    if config.best_metric is not None and config.best_metric.startswith("eval/nll"):
        raise ConfigError(
            f"best_metric={config.best_metric!r}: there is no held-out data",
            field="best_metric",
            hint="set test_size or test_data",
        )


def _check_max_length(config: SupervisedConfig, tokenizer: Any) -> None:
    """Refuse examples that the model could not read, where its tokenizer says how much it can."""
    limit = getattr(tokenizer, "model_max_length", None)
    if limit is not None and config.max_length > limit:
        raise ConfigError(
            f"max_length={config.max_length}: {config.model} reads at most {int(limit)} tokens",
            field="max_length",
            hint=f"set max_length to {int(limit)} or less",
        )
