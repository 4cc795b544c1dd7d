"""The run that a script written for W&B holds."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from tinsmith.core.errors import ConfigError, UserError, unknown_name
from tinsmith.telemetry import events
from tinsmith.telemetry.payload import Refused, to_float
from tinsmith.telemetry.run import Run
from tinsmith.telemetry.wandb.data import Histogram, Table
from tinsmith.telemetry.wandb.values import Config, Summary, flatten

__all__ = ["AlertLevel", "ScriptRun", "Settings", "unsupported"]

_MAX_CELLS = 10_000  # of a collection in an event's metadata
_SUMMARIES = ("last", "min", "max", "none")
_ELSEWHERE: Mapping[str, str] = {
    "watch": "log the norms that you need: wandb.log({'grad_norm': norm})",
    "save": "telemetry.artifact(path) records a file with its digest",
    "log_artifact": "telemetry.artifact(path) records a file with its digest",
    "use_artifact": "open the file itself; telemetry.artifact(path) records which one it was",
    "Artifact": "telemetry.artifact(path) records a file with its digest",
    "log_code": "the git revision with uncommitted changes is recorded by itself",
    "restore": "tinsmith runs show RUN names the files of a run",
    "Api": "telemetry.open_store() and tinsmith.telemetry.query read runs; or tinsmith runs query",
    "sweep": "begin one run for each setting, with group=",
    "agent": "begin one run for each setting, with group=",
    "plot": "log the rows as a Table",
    "Image": "write a file and call telemetry.artifact(path)",
    "Audio": "write a file and call telemetry.artifact(path)",
    "Video": "write a file and call telemetry.artifact(path)",
    "Html": "write a file and call telemetry.artifact(path)",
    "Object3D": "write a file and call telemetry.artifact(path)",
    "Plotly": "write a file and call telemetry.artifact(path)",
}


class AlertLevel(StrEnum):
    """How grave an alert is."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class Settings(dict[str, object]):
    """Settings for `init(settings=...)`: names that `init` takes, too, and those of W&B's service.

    The latter (`start_method`, `init_timeout`, `silent`, `quiet`, `console`) have nothing to set
    here: there is no service.
    """

    def __init__(self, **values: object) -> None:
        super().__init__(values)


class _Unsupported(ConfigError, AttributeError):
    """A name of W&B's that is not here; an AttributeError, too, for `hasattr`."""


def unsupported(name: str) -> AttributeError:
    """Return the error for a call that is not here, naming what to do instead."""
    if name not in _ELSEWHERE:
        return AttributeError(f"tinsmith.telemetry.wandb: has no {name!r}")
    return _Unsupported(
        f"wandb.{name}: is not supported by tinsmith.telemetry.wandb", hint=_ELSEWHERE[name]
    )


class ScriptRun:
    """A run with the names that W&B gives its parts; `run.recorded` is the run as the recorder's.

    A context manager, as W&B's: an exception finishes it with exit code 1.
    """

    def __init__(self, recorded: Run, *, first_step: int, is_resumed: bool) -> None:
        self.recorded = recorded
        self.config = Config(dict(recorded.record.config), self._config_changed)
        self.summary = Summary({}, self._summary_changed)
        self.resumed = is_resumed
        self._step = first_step
        self._rules: dict[str, str] = {}
        self._set: set[str] = set()
        self._axes: dict[str, str] = {}
        self._described: set[str] = set()

    @property
    def id(self) -> str:
        return self.recorded.run_id

    @property
    def name(self) -> str:
        return self.recorded.name

    @property
    def project(self) -> str:
        return self.recorded.project

    @property
    def group(self) -> str:
        return self.recorded.record.group or ""

    @property
    def job_type(self) -> str:
        return self.recorded.record.job or ""

    @property
    def tags(self) -> tuple[str, ...]:
        return self.recorded.record.tags

    @property
    def notes(self) -> str | None:
        return self.recorded.record.hypothesis

    @property
    def step(self) -> int:
        """The step of the next `log` without one."""
        return self._step

    @property
    def disabled(self) -> bool:
        return self.recorded.is_off

    def log(
        self, data: Mapping[str, object], step: int | None = None, commit: bool | None = None
    ) -> None:
        """Record values of a step.

        Args:
            data: Values by name; nested maps become `outer/inner`.
            step: Any whole number; without it the step that is open, which begins with 0. One that
                goes back is recorded where it belongs, and the open step stays.
            commit: Go on to the next step; by default where no step is given.
        """
        if not isinstance(data, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - users'
            raise UserError(f"log: {data!r:.100}: must be a map of values by name")
        at = self._step if step is None else step
        numbers: dict[str, object] = {}
        for key, value in flatten(data).items():
            if self._is_number(value):
                numbers[key] = value
                self._describe(key)
                self._summarize(key, value)
            else:
                self._log_data(key, value, at)
        if numbers:
            self.recorded.log(numbers, at)
        self._step = max(self._step, at)
        is_done = step is None if commit is None else commit
        if is_done and at == self._step:
            self._step += 1

    def define_metric(
        self, name: str, step_metric: str | None = None, *, summary: str | None = None
    ) -> None:
        """Say what a metric means, or those that match a pattern.

        Args:
            name: A metric, or a pattern such as `eval/*`.
            step_metric: What it is plotted against; kept as its description, since queries and
                frames choose their x.
            summary: Which value sums it up: "last" (the default), "min", "max", or "none".

        Raises:
            UnknownNameError: another summary.
        """
        if summary is not None and summary not in _SUMMARIES:
            raise unknown_name("summary", summary, _SUMMARIES, "summary")
        if summary is not None:
            self._rules[name] = summary
        if step_metric is not None:
            self._axes[name] = step_metric

    def alert(self, title: str, text: str, level: str = AlertLevel.INFO) -> None:
        """Record an alert; nobody is sent anything."""
        known: dict[str, Literal["info", "warning", "error"]] = {
            "INFO": "info",
            "WARN": "warning",
            "ERROR": "error",
        }
        if level not in known:
            raise unknown_name("level", str(level), known, "level")
        self.recorded.alert(title, text, severity=known[level])

    def finish(self, exit_code: int | None = None) -> None:
        """End the run; with an exit code other than 0 as failed."""
        if self.recorded.is_open and len(self.summary):
            self.recorded.event(events.SUMMARY_UPDATED, metadata=self.summary.as_dict())
        self.recorded.finish("failed" if exit_code else "finished", exit_code=exit_code or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(0 if kind is None else 1)

    def __getattr__(self, name: str) -> Any:  # Any: it always raises
        raise unsupported(name)

    # ---------------------------------------------------------------------------------- inside

    @staticmethod
    def _is_number(value: object) -> bool:
        try:
            to_float(value)
        except Refused:
            return False
        return True

    def _log_data(self, key: str, value: object, step: int) -> None:
        if isinstance(value, Table):
            if len(value.data) * max(1, len(value.columns)) > _MAX_CELLS:
                raise UserError(
                    f"log: table {key!r} has more than {_MAX_CELLS:,} cells",
                    hint="write it to a file and call telemetry.artifact(path)",
                )
            told = {"key": key, "columns": value.columns, "rows": value.data}
            self.recorded.event(events.TABLE_LOGGED, {"n": len(value)}, metadata=told, step=step)
        elif isinstance(value, Histogram):
            told = {"key": key, "counts": value.histogram, "edges": value.bins}
            number = {"n": sum(value.histogram)}
            self.recorded.event(events.HISTOGRAM_LOGGED, number, metadata=told, step=step)
        else:
            told = {"key": key, "value": value}
            self.recorded.event(events.VALUE_LOGGED, metadata=told, step=step)

    def _describe(self, key: str) -> None:
        if key in self._described or not self._axes:
            return
        self._described.add(key)
        for pattern, axis in self._axes.items():
            if fnmatch.fnmatchcase(key, pattern):
                self.recorded.define(key, description=f"plotted against {axis}")

    def _summarize(self, key: str, value: object) -> None:
        rule = next(
            (rule for name, rule in self._rules.items() if fnmatch.fnmatchcase(key, name)), "last"
        )
        if key in self._set or rule == "none":
            return
        number = to_float(value)
        kept = self.summary._values  # pyright: ignore[reportPrivateUsage] - tells nobody
        known = kept.get(key)
        if isinstance(known, float) and rule in ("min", "max"):
            number = min(known, number) if rule == "min" else max(known, number)
        kept[key] = number

    def _config_changed(self, values: dict[str, object]) -> None:
        self.recorded.update_config(values)

    def _summary_changed(self, values: dict[str, object]) -> None:
        self._set.update(values)
        self.recorded.event(events.SUMMARY_UPDATED, metadata=values)
