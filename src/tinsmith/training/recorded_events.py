"""Events of the training loops, recorded in the current run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tinsmith import telemetry
from tinsmith.renderers.messages import content_text
from tinsmith.telemetry import events
from tinsmith.training import names

if TYPE_CHECKING:
    from tinsmith.training.checkpoints import CheckpointRecord
    from tinsmith.training.sampling_evaluators import Answer

__all__ = ["record_answer", "record_checkpoint", "record_evaluation"]


def record_checkpoint(record: CheckpointRecord, duration_s: float) -> None:
    """Record a saved state in the current run."""
    telemetry.event(
        events.CHECKPOINT_SAVED,
        {"duration_ms": duration_s * 1e3, "step": record.step},
        metadata={"path": record.state_path, "kind": record.kind},
        step=record.step,
    )


def record_evaluation(step: int, metrics: Mapping[str, float]) -> None:
    """Record that the state of a step was evaluated; the numbers themselves are metrics."""
    measured = {"duration_ms": metrics[names.TIME_EVAL_S] * 1e3}
    if names.SAMPLE_SCORE in metrics:
        measured["score"] = metrics[names.SAMPLE_SCORE]
    telemetry.event(events.EVAL_FINISHED, measured, step=step)


def record_answer(step: int, answer: Answer) -> None:
    """Record an answer that was graded."""
    prompt = "\n".join(f"{message['role']}: {content_text(message)}" for message in answer.prompt)
    telemetry.sample(
        prompt,
        answer.text,
        step=step,
        rewards={"score": answer.score},
        metadata={"expected": answer.expected},
    )
