"""The progress line: on stderr, and only on a terminal."""

from __future__ import annotations

import sys
from typing import Any, Protocol, Self


class Progress(Protocol):
    """What a loop tells about its progress."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *details: object) -> None: ...

    def update(self, step: int, value: float, tokens_per_s: float) -> None:
        """Show `step` steps done."""
        ...


class _Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def update(self, step: int, value: float, tokens_per_s: float) -> None:
        pass


class _Bar:
    """Step, loss or reward, tokens a second and the time left."""

    def __init__(self, num_steps: int, first_step: int, label: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self._bar: Any = RichProgress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn(f"{label} {{task.fields[value]}}"),
            TextColumn("{task.fields[rate]} tokens/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(
            "train", total=num_steps, completed=first_step, value="-", rate="-"
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.stop()

    def update(self, step: int, value: float, tokens_per_s: float) -> None:
        self._bar.update(
            self._task, completed=step, value=f"{value:.4f}", rate=f"{tokens_per_s:,.0f}"
        )


def make_progress(
    num_steps: int, first_step: int = 0, *, label: str = "loss", wanted: bool = True
) -> Progress:
    """A progress bar if it is wanted and stderr is a terminal, else one that shows nothing."""
    if wanted and sys.stderr.isatty():
        return _Bar(num_steps, first_step, label)
    return _Silent()
