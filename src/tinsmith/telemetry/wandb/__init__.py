"""The calls of `wandb` that scripts use, recorded here: `import tinsmith.telemetry.wandb as wandb`.

No account and no server: `mode` "online" and "offline" mean the same. Differences that matter:

- A step that goes back is kept at its step; W&B drops it. The step that the next `log` without one
  gets does not go back.
- Nested maps become `outer/inner`. Numbers are points; texts, lists and `Histogram`s are events
  (`value.logged`, `histogram.logged`), a `Table` is an event (`table.logged`) with its rows.
- What is not here (images, plots, sweeps, ...) raises, and the error names the way to go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tinsmith.core.errors import ConfigError
from tinsmith.telemetry.wandb import module_state
from tinsmith.telemetry.wandb.data import Histogram, Table
from tinsmith.telemetry.wandb.module_state import finish, init, login
from tinsmith.telemetry.wandb.script_run import AlertLevel, ScriptRun, Settings, unsupported
from tinsmith.telemetry.wandb.values import Config, Summary

__all__ = [
    "AlertLevel",
    "Config",
    "Histogram",
    "ScriptRun",
    "Settings",
    "Summary",
    "Table",
    "alert",
    "define_metric",
    "finish",
    "init",
    "log",
    "login",
]

if TYPE_CHECKING:
    run: ScriptRun | None
    config: Config
    summary: Summary


def log(data: Mapping[str, object], step: int | None = None, commit: bool | None = None) -> None:
    """Record values in the open run; see `ScriptRun.log`."""
    _open("log").log(data, step, commit)


def define_metric(name: str, step_metric: str | None = None, *, summary: str | None = None) -> None:
    """Say what a metric means; see `ScriptRun.define_metric`."""
    _open("define_metric").define_metric(name, step_metric, summary=summary)


def alert(title: str, text: str, level: str = AlertLevel.INFO) -> None:
    """Record an alert; see `ScriptRun.alert`."""
    _open("alert").alert(title, text, level)


def _open(call: str) -> ScriptRun:
    found = module_state.open_run()
    if found is None:
        raise ConfigError(f"wandb.{call}: no run is open", hint="call wandb.init() first")
    return found


def __getattr__(name: str) -> object:
    if name == "run":
        return module_state.open_run()
    parts: dict[str, Callable[[ScriptRun], object]] = {
        "config": lambda found: found.config,
        "summary": lambda found: found.summary,
    }
    if name in parts:
        return parts[name](_open(name))
    raise unsupported(name)
