"""Configuration of a run, and of the supervised loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tinsmith.algorithms.schedules import ScheduleName
from tinsmith.core.errors import ConfigError
from tinsmith.core.paths import BUNDLED_MODEL
from tinsmith.data.supervised import TooLong
from tinsmith.regularizers.registry import RegularizerConfig
from tinsmith.renderers.messages import TrainOnWhat
from tinsmith.types import AdamParams

Source = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, Path) else name)]
"""Name of data, as `tinsmith.data.sources` reads it."""
LossNormalisation = Literal["token_mean", "example_mean", "sum"]
IfExists = Literal["raise", "resume", "delete", "ask"]


class SampleEvalConfig(BaseModel):
    """Prompts that are answered with the weights of the moment, and how answers are graded."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: Source | None = None
    """Prompts with answers: a file, or a data set (`hf:gsm8k:test`); none asks nothing."""
    grader: str = "final_answer"
    """How an answer is graded: final_answer, exact, contains, or an entry point
    (`tinsmith.graders`)."""
    max_prompts: int = Field(default=100, ge=1)
    """Prompts to ask, from the start of the file."""
    num_samples: int = Field(default=1, ge=1)
    """Answers to each; the score is their mean."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token each time."""
    seed: int = Field(default=0, ge=0)
    """Fixes the tokens that are drawn."""


class InspectConfig(BaseModel):
    """Inspect AI tasks, answered with the weights of the moment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tasks: tuple[str, ...] = ()
    """`file.py@task`, or the registered name of a task in an installed package."""
    limit: int | None = Field(default=None, ge=1)
    """Samples of each task, from the start; none takes all."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer in tokens, where a task does not say."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature, where a task does not say."""


class RunConfig(BaseModel):
    """What every training run has, whatever its method: model, steps, optimizer, records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: Source
    """What to train on."""
    model: str = BUNDLED_MODEL
    """Base model: the bundled one, a directory, or a Hugging Face Hub name."""
    base_url: str | None = None
    """Address of the service; none starts or joins the embedded one."""
    run_dir: Path | None = None
    """Directory of the run; none makes one under the data directory, named by time and data."""
    if_exists: IfExists = "raise"
    """What to do when the run directory holds a run: raise, resume, delete or ask."""
    start_from: str | None = None
    """Training state to start from, a `tinker://` address, with a fresh optimizer; rank and adapted
    parts are then its own. None starts with a new adapter."""

    renderer: str | None = None
    """Chat format; none takes the one that fits the model."""

    batch_size: int = Field(default=16, ge=1)
    """Rows of the data a step; the last batch of an epoch may be smaller."""
    num_epochs: int = Field(default=1, ge=1)
    """Passes over the data."""
    num_steps: int | None = Field(default=None, ge=1)
    """Steps of the run instead of `num_epochs`, with as many epochs as that takes."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps; the schedule ends there, too."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split, of the orders, and of the adapter unless it has its own."""

    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak learning rate."""
    lr_schedule: ScheduleName = "linear"
    """Decay after warm-up: linear, cosine or constant."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Part of the run that is warm-up, instead of `warmup_steps`."""
    final_lr_fraction: float = Field(default=0.0, ge=0, le=1)
    """Part of the peak learning rate that the schedule ends at."""
    regularizers: tuple[RegularizerConfig, ...] = ()
    """Terms added to the loss, such as `{kind = "kl_estimate", weight = 0.05}`. They cost a forward
    pass more a step."""
    track_grad_norms: bool = False
    """Record the norm of the gradient of the loss and of each regularizer by the logprobs."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of Adam's first moment."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of Adam's second moment."""
    adam_eps: float = Field(default=1e-8, gt=0)
    """Added to the root of Adam's second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay, as in AdamW."""
    grad_clip_norm: float = Field(default=0.0, ge=0)
    """Largest global gradient norm; 0 does not clip."""

    lora_rank: int = Field(default=32, ge=1)
    """Rank of the adapter."""
    lora_seed: int | None = Field(default=None, ge=0)
    """Seed of the adapter's initial weights; none takes `seed`."""
    train_attn: bool = True
    """Adapt the attention projections."""
    train_mlp: bool = True
    """Adapt the feed-forward projections."""
    train_unembed: bool = True
    """Adapt the output projection."""

    eval_every: int = Field(default=10, ge=0)
    """Steps between evaluations on held-out data; there is always one before the first step and
    one after the last. 0 leaves it at these two."""
    infrequent_eval_every: int = Field(default=100, ge=0)
    """Steps between runs of the infrequent evaluators, which also run first and last."""
    evaluators: tuple[str, ...] = ()
    """Evaluators of installed packages (entry points `tinsmith.evaluators`), every `eval_every`."""
    infrequent_evaluators: tuple[str, ...] = ()
    """The same, every `infrequent_eval_every`."""
    sample_eval: SampleEvalConfig = SampleEvalConfig()
    """Answers to prompts, graded, every `infrequent_eval_every`."""
    inspect: InspectConfig = InspectConfig()
    """Inspect AI tasks, every `infrequent_eval_every`; `pip install "tinsmith[inspect]"`."""

    save_every: int = Field(default=50, ge=0)
    """Steps between checkpoints to resume from; 0 saves at the end only."""
    rolling_save_every_s: float = Field(default=0.0, ge=0)
    """Seconds between rolling checkpoints, of which only the newest is kept; 0 makes none."""
    rolling_ttl_s: int = Field(default=7200, ge=1)
    """How long the service keeps a rolling checkpoint."""
    checkpoint_ttl_s: int | None = Field(default=None, ge=1)
    """How long the service keeps a checkpoint of `save_every`; none keeps it for good."""
    keep_last: int = Field(default=0, ge=0)
    """Newest checkpoints of `save_every` to keep; older ones are deleted. 0 keeps all."""
    best_metric: str | None = None
    """Metric by which the best state is kept as a checkpoint of its own, such as `eval/nll`."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Which value of it is the best."""
    progress: bool = True
    """Show a progress bar when stderr is a terminal."""
    console: bool = False
    """Write a line a step to stderr, for a log file."""
    transcript: bool = True
    """Write `transcript.html`: training examples, and the answers that were graded."""
    trace: bool = False
    """Write `trace.json`, where time goes, to be opened in Perfetto."""
    record: bool = True
    """Keep metrics, events and answers in the recorder's store, for `tinsmith runs`; the variable
    `TINSMITH_RECORD` says where, and `off` turns it off for every run."""
    project: str = "default"
    """Project of the recorded run."""
    wandb: bool = False
    """Send metrics to Weights & Biases, too; its `WANDB_` variables are respected."""
    wandb_project: str | None = None
    """Project there; none takes `WANDB_PROJECT`."""
    wandb_name: str | None = None
    """Name of the run there; none takes `WANDB_NAME`."""

    def adam_params(self, multiplier: float) -> AdamParams:
        """Optimizer settings of a step whose schedule multiplier is given."""
        return AdamParams(
            learning_rate=self.learning_rate * multiplier,
            beta1=self.adam_beta1,
            beta2=self.adam_beta2,
            eps=self.adam_eps,
            weight_decay=self.weight_decay,
            grad_clip_norm=self.grad_clip_norm,
        )

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.start_from is None:
            return self
        for name in ("lora_rank", "lora_seed", "train_attn", "train_mlp", "train_unembed"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}: start_from has an adapter of its own",
                    field=name,
                    hint="keep one",
                )
        return self


class SupervisedConfig(RunConfig):
    """A supervised fine-tuning run."""

    data: Source
    """Conversations to train on: a file (JSONL, Parquet), a data set (`hf:NAME`), or a mixture of
    them (TOML)."""
    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    """Messages that carry loss weight."""
    max_length: int = Field(default=2048, ge=2)
    """Longest conversation in tokens."""
    on_too_long: TooLong = "error"
    """What to do with a longer conversation: error, truncate on the right, or skip."""
    test_size: float = Field(default=0, ge=0)
    """Conversations held out for evaluation, of each source: a number, or a fraction below 1."""
    test_data: tuple[Source, ...] = ()
    """Further files or data sets to evaluate on."""
    deduplicate: bool = False
    """Train on the first of conversations that say the same, not on the repeats."""
    batch_size: int = Field(default=16, ge=1)
    """Conversations a step; the last batch of an epoch may be smaller."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens a step, at most, instead of a number of conversations; a longer conversation has a
    step of its own."""
    loss_normalisation: LossNormalisation = "token_mean"
    """Meaning of the learning rate: `token_mean` divides by the batch's trained tokens, so every
    token counts the same; `example_mean` by those of each conversation and by the number of
    conversations, so every conversation counts the same; `sum` divides by nothing."""
    eval_accuracy: bool = False
    """Also measure how often the likeliest token is the held-out one; samples with the weights."""
    submit_ahead: int = Field(default=1, ge=0)
    """Steps sent to the service before the oldest is awaited; results do not depend on it."""


FREE_ON_RESUME = frozenset(
    {
        "base_url",
        "run_dir",
        "if_exists",
        "progress",
        "submit_ahead",
        "save_every",
        "rolling_save_every_s",
        "rolling_ttl_s",
        "checkpoint_ttl_s",
        "keep_last",
        "console",
        "transcript",
        "trace",
        "record",
        "project",
        "wandb",
        "wandb_project",
        "wandb_name",
    }
)
"""Fields that may change when a run is resumed, since no metric depends on them."""
