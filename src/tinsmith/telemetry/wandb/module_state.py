"""The open run of a script, and `init`, which begins it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack, cast

from tinsmith.core import environment
from tinsmith.core.errors import ConfigError, UnknownNameError, unknown_name
from tinsmith.telemetry import session
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.opening import open_store
from tinsmith.telemetry.wandb.script_run import ScriptRun
from tinsmith.telemetry.wandb.values import settings_of

__all__ = ["InitSettings", "finish", "init", "login", "open_run"]

_MODES = ("online", "offline", "disabled")
_RESUMES = ("allow", "must", "never", "auto")
_OF_THE_SERVICE = ("start_method", "init_timeout", "silent", "quiet", "console")
_open: ScriptRun | None = None


class InitSettings(TypedDict, total=False):
    """What `init` takes."""

    project: str | None
    name: str | None
    config: object
    """A map, or an object such as `argparse` makes."""
    group: str | None
    tags: Sequence[str] | None
    notes: str | None
    """Kept as the run's hypothesis."""
    id: str | None
    resume: bool | str | None
    """"allow", "must" or "never"; True and "auto" mean "allow" and need an `id`."""
    job_type: str | None
    mode: str | None
    """"disabled" records nothing; "online" and "offline" are the same here."""
    entity: str | None
    """Kept with the run; there are no accounts."""
    settings: object
    store: str | Path
    """Where to record, as for `telemetry.init`."""


def init(**given: Unpack[InitSettings]) -> ScriptRun:
    """Begin a run; or return the one that is open, as W&B does.

    What is not given is taken from `settings`, then from `WANDB_PROJECT`, `WANDB_NAME`,
    `WANDB_RUN_GROUP`, `WANDB_TAGS`, `WANDB_NOTES`, `WANDB_RUN_ID`, `WANDB_RESUME`,
    `WANDB_JOB_TYPE` and `WANDB_MODE`.

    Raises:
        UnknownNameError: a setting, a mode or a way to resume that is not here; a run that
            `resume="must"` does not find.
        ConfigError: the run exists, and `resume="never"`; or no `id` says what to resume.
    """
    global _open  # noqa: PLW0603 - a script's run is the module's
    asked = _completed(given)
    if (known := open_run()) is not None:
        return known
    resume = _resume(asked)
    store = "off" if asked.get("mode") == "disabled" else asked.get("store")
    run_id = asked.get("id")
    next_step = None
    if resume is not None and run_id is not None and store != "off":
        next_step = _next_step(run_id, resume, store)
    settings = session.RunSettings()
    if store is not None:
        settings["store"] = store
    if run_id is not None:
        settings["run_id"] = run_id
    if next_step is not None:
        settings["resumed_from_step"] = next_step - 1
    if notes := asked.get("notes"):
        settings["hypothesis"] = notes
    if group := asked.get("group"):
        settings["group"] = group
    if job := asked.get("job_type"):
        settings["job"] = job
    if entity := asked.get("entity"):
        settings["metadata"] = {"entity": entity}
    settings["tags"] = tuple(asked.get("tags") or ())
    config = settings_of(asked.get("config"))
    project = asked.get("project") or "uncategorized"
    recorded = session.init(project, asked.get("name"), config=config, **settings)
    _open = ScriptRun(recorded, first_step=next_step or 0, is_resumed=next_step is not None)
    _open.config.update(config, allow_val_change=True)
    return _open


def open_run() -> ScriptRun | None:
    """Return the run that is open."""
    return _open if _open is not None and _open.recorded.is_open else None


def finish(exit_code: int | None = None) -> None:
    """End the open run; with an exit code other than 0 as failed."""
    if (run := open_run()) is not None:
        run.finish(exit_code)


def login(*_: object, **__: object) -> bool:
    """Return True: there is nothing to log in to."""
    return True


def _completed(given: InitSettings) -> InitSettings:
    known = InitSettings.__annotations__
    for name in given:
        if name not in known:
            raise unknown_name("setting of wandb.init", name, known)
    further = settings_of(given.pop("settings", None))
    further = {{"run_id": "id", "run_name": "name"}.get(k, k): v for k, v in further.items()}
    for name in further:
        if name not in known and name not in _OF_THE_SERVICE:
            raise unknown_name("setting", name, [*known, *_OF_THE_SERVICE], "settings")
    variables: dict[str, object] = dict(environment.wandb_settings())
    if "tags" in variables:
        variables["tags"] = str(variables["tags"]).split(",")
    told = {k: v for k, v in given.items() if v is not None}
    asked = cast("InitSettings", {**variables, **further, **told})
    mode = asked.get("mode")
    if mode is not None and mode not in _MODES:
        raise unknown_name("mode", mode, _MODES, "mode")
    return asked


def _resume(asked: InitSettings) -> str | None:
    resume = asked.get("resume")
    if resume is None or resume is False:
        return None
    way = "auto" if resume is True else str(resume)
    if way not in _RESUMES:
        raise unknown_name("resume", way, _RESUMES, "resume")
    if asked.get("id") is None:
        raise ConfigError(
            f"resume={way!r}: which run is not said", field="id", hint="wandb.init(id=..., ...)"
        )
    return "allow" if way == "auto" else way


def _next_step(run_id: str, resume: str, address: str | Path | None) -> int | None:
    """Return the step after the last of a run; None where there is no such run."""
    store: Store = open_store(address)
    try:
        store.get_run(run_id)
    except UnknownNameError:
        if resume == "must":
            raise
        return None
    if resume == "never":
        raise ConfigError(f"id={run_id!r}: exists already, and resume='never'", field="id")
    steps = store.points(run_id).step
    return int(steps.max()) + 1 if len(steps) else 0
