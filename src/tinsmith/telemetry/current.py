"""`log`, `event`, `span` and their sisters of the current run, as functions of the module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tinsmith.telemetry.catalogue import EventSpec
from tinsmith.telemetry.model import Alert, Event, Severity
from tinsmith.telemetry.session import current_run
from tinsmith.telemetry.spans import Span

__all__ = ["alert", "artifact", "event", "log", "pause", "resume", "sample", "span", "subscribe"]


def log(metrics: Mapping[str, object], step: int | None = None) -> None:
    """Record numbers of a step in the current run; see `Run.log`."""
    current_run().log(metrics, step)


def event(
    event: EventSpec | str,
    measurements: Mapping[str, object] | None = None,
    *,
    metadata: Mapping[str, object] | None = None,
    step: int | None = None,
) -> None:
    """Record in the current run that something happened; see `Run.event`."""
    current_run().event(event, measurements, metadata=metadata, step=step)


def span(
    event: EventSpec | str,
    *,
    step: int | None = None,
    announce: bool = False,
    **metadata: object,
) -> Span:
    """Return a block of work to enter, recorded in the current run; see `Run.span`."""
    return current_run().span(event, step=step, announce=announce, **metadata)


def sample(
    prompt: str,
    completion: str,
    *,
    step: int | None = None,
    token_logprobs: Sequence[float] | None = None,
    rewards: Mapping[str, float] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Record a prompt and its completion in the current run; see `Run.sample`."""
    current_run().sample(
        prompt,
        completion,
        step=step,
        token_logprobs=token_logprobs,
        rewards=rewards,
        metadata=metadata,
    )


def artifact(
    path: str | Path,
    *,
    name: str | None = None,
    kind: str = "file",
    digest: str | None = None,
    step: int | None = None,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Record a file or folder in the current run; see `Run.artifact`."""
    current_run().artifact(path, name=name, kind=kind, digest=digest, step=step, metadata=metadata)


def alert(
    rule: str,
    message: str,
    *,
    severity: Severity = "warning",
    key: str | None = None,
    step: int | None = None,
    score: float | None = None,
    threshold: float | None = None,
) -> Alert:
    """Record in the current run that a rule fired; see `Run.alert`."""
    return current_run().alert(
        rule,
        message,
        severity=severity,
        key=key,
        step=step,
        score=score,
        threshold=threshold,
    )


def subscribe(pattern: str, handler: Callable[[Event], None]) -> Callable[[], None]:
    """Hear the current run's events whose names match a shell pattern; see `Run.subscribe`."""
    return current_run().subscribe(pattern, handler)


def pause() -> None:
    """Pause the current run; see `Run.pause`."""
    current_run().pause()


def resume() -> None:
    """Go on with the current run after `pause`."""
    current_run().resume()
