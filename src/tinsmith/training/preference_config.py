"""Configuration of the preference loop."""

from __future__ import annotations

from pydantic import Field

from tinsmith.data.supervised import TooLong
from tinsmith.training.config import RunConfig, Source


class PreferenceConfig(RunConfig):
    """A preference run: direct preference optimization (DPO) on comparisons."""

    data: Source
    """Comparisons to train on: a file (JSONL, Parquet) or a data set (`hf:NAME`) whose rows have
    `prompt`, `chosen` and `rejected`."""
    max_length: int = Field(default=2048, ge=2)
    """Longest answer in tokens, its prompt included."""
    on_too_long: TooLong = "error"
    """What to do with a longer one: error, truncate on the right, or skip the comparison."""
    test_size: float = Field(default=0, ge=0)
    """Comparisons held out for evaluation: a number, or a fraction below 1."""
    test_data: tuple[Source, ...] = ()
    """Further files or data sets to evaluate on."""
    batch_size: int = Field(default=16, ge=1)
    """Comparisons a step; the last batch of an epoch may be smaller."""
    submit_ahead: int = Field(default=1, ge=0)
    """Steps sent to the service before the oldest is awaited; results do not depend on it."""

    beta: float = Field(default=0.1, gt=0)
    """How dear it is to leave the reference: the reward of an answer is beta times the log-ratio of
    the trained and the initial weights."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that the better answer is really the worse one."""
    length_normalised: bool = False
    """Take the mean over an answer's tokens in place of the sum; beta is then larger, 5 or so."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
