"""What a run measures between steps, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinsmith.core.errors import ConfigError
from tinsmith.training.inspect_bridge import InspectEvaluator
from tinsmith.training.job import Job
from tinsmith.training.sampling_evaluators import AnyEvaluator, load_evaluator


@dataclass(frozen=True)
class Measures:
    """What is measured, by how often: every `eval_every`, and every `infrequent_eval_every`."""

    frequent: Sequence[AnyEvaluator] = ()
    infrequent: Sequence[AnyEvaluator] = ()


def make_measures(job: Job, own: Measures, run_path: Path) -> Measures:
    """The measures that a run's configuration names, and those given in code.

    Args:
        job: The run.
        own: Those given in code.
        run_path: Directory of the run, for what measures write.

    Raises:
        UnknownNameError: No installed package offers an evaluator of that name.
        ConfigError: The best state is to be kept, and nothing is measured.
    """
    config = job.config
    frequent = [load_evaluator(name, config) for name in config.evaluators]
    infrequent = [load_evaluator(name, config) for name in config.infrequent_evaluators]
    if job.answers is not None:
        infrequent.insert(0, job.answers)
    if config.inspect.tasks:
        infrequent.append(
            InspectEvaluator(config.inspect, job.renderer, config.model, run_path / "inspect")
        )
    measures = Measures((*frequent, *own.frequent), (*infrequent, *own.infrequent))
    is_something_measured = job.has_held_out or measures.frequent or measures.infrequent
    if config.best_metric is not None and not is_something_measured:
        raise ConfigError(
            f"best_metric={config.best_metric!r}: nothing is measured",
            field="best_metric",
            hint="set test_size, test_data, sample_eval or evaluators",
        )
    return measures
