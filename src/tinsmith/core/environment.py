"""The only place that reads environment variables; an empty variable counts as unset.

`TINSMITH_BASE_URL` and `TINSMITH_API_KEY` come before their `TINKER_*` twins, so that scripts
written for the Tinker SDK find the service that they were set up for.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "api_key",
    "base_url",
    "compute_process",
    "credential_command",
    "home",
    "is_record_strict",
    "is_telemetry_on",
    "log_level",
    "project_id",
    "record_rank",
    "record_run",
    "record_store",
    "tags",
    "tinker_base_url",
    "tinker_credentials_file",
    "traceparent",
    "wandb_settings",
    "xdg_home",
]

_ON = ("1", "true", "yes", "on")
_OFF = ("0", "false", "no", "off")
_XDG_DEFAULTS = {"data": ".local/share", "config": ".config", "cache": ".cache"}


def base_url() -> str | None:
    """Return the service's address (`TINSMITH_BASE_URL`, `TINKER_BASE_URL`) without a last `/`."""
    address = _first("TINSMITH_BASE_URL", "TINKER_BASE_URL")
    return address.rstrip("/") if address else None


def api_key() -> str | None:
    """Return the API key (`TINSMITH_API_KEY`, `TINKER_API_KEY`)."""
    return _first("TINSMITH_API_KEY", "TINKER_API_KEY")


def credential_command() -> str | None:
    """Return the shell command that prints a key (`TINSMITH_CREDENTIAL_CMD`, `TINKER_...`)."""
    return _first("TINSMITH_CREDENTIAL_CMD", "TINKER_CREDENTIAL_CMD")


def tinker_base_url() -> str | None:
    """Return the address that the Tinker SDK would use (`TINKER_BASE_URL`), without a last `/`."""
    address = _first("TINKER_BASE_URL")
    return address.rstrip("/") if address else None


def tinker_credentials_file() -> Path:
    """Return the file in which the Tinker SDK keeps its key."""
    return Path.home() / ".tinker" / "credentials.json"


def is_telemetry_on() -> bool:
    """Return whether clients tell their service how they fare (`TINSMITH_TELEMETRY`, `TINKER_...`).

    On unless the variable says something else than 1, true, yes or on.
    """
    said = _first("TINSMITH_TELEMETRY", "TINKER_TELEMETRY")
    return said is None or said.lower() in _ON


def is_record_strict() -> bool:
    """Return whether a wrong event raises instead of warning (`TINSMITH_RECORD_STRICT`)."""
    return (_first("TINSMITH_RECORD_STRICT") or "").lower() in _ON


def record_rank() -> int:
    """Return this process's rank in its launch (`RANK`, as torchrun sets it); 0 without one."""
    said = _first("RANK") or ""
    return int(said) if said.isdecimal() else 0


def record_run() -> str | None:
    """Return the run that this process belongs to (`TINSMITH_RUN`), where its parent said so."""
    return _first("TINSMITH_RUN")


def traceparent() -> str | None:
    """Return the place in a trace in which this process was started (`TRACEPARENT`)."""
    return _first("TRACEPARENT")


def wandb_settings() -> dict[str, str]:
    """Return what W&B's own variables say of a run (`WANDB_PROJECT`, ...), by names of `init`."""
    names = {
        "project": "WANDB_PROJECT",
        "name": "WANDB_NAME",
        "group": "WANDB_RUN_GROUP",
        "tags": "WANDB_TAGS",
        "notes": "WANDB_NOTES",
        "id": "WANDB_RUN_ID",
        "resume": "WANDB_RESUME",
        "job_type": "WANDB_JOB_TYPE",
        "mode": "WANDB_MODE",
        "entity": "WANDB_ENTITY",
    }
    said = {name: _first(variable) for name, variable in names.items()}
    return {name: value for name, value in said.items() if value is not None}


def project_id() -> str | None:
    """Return the project to work in (`TINSMITH_PROJECT_ID`, `TINKER_PROJECT_ID`)."""
    return _first("TINSMITH_PROJECT_ID", "TINKER_PROJECT_ID")


def record_store() -> str | None:
    """Return where runs are recorded (`TINSMITH_RECORD`): a folder, a store's URL, or "off".

    0, false and no mean "off", too; 1, true, yes and on the default, which is None.
    """
    said = _first("TINSMITH_RECORD")
    if said is None or said.lower() in _ON:
        return None
    return "off" if said.lower() in _OFF else said


def tags() -> list[str]:
    """Return the tags of sessions (`TINSMITH_TAGS`, `TINKER_TAGS`), separated by commas."""
    names = (_first("TINSMITH_TAGS", "TINKER_TAGS") or "").split(",")
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def log_level() -> str | None:
    """Return the log level that was asked for (`TINSMITH_LOG`), in lower case."""
    level = _first("TINSMITH_LOG")
    return level.lower() if level else None


def home() -> Path | None:
    """Return `TINSMITH_HOME`, which replaces all the XDG directories."""
    folder = _first("TINSMITH_HOME")
    return Path(folder).expanduser().absolute() if folder else None


def xdg_home(kind: str) -> Path:
    """Return the XDG base directory of a kind: "data", "config" or "cache"."""
    folder = _first(f"XDG_{kind.upper()}_HOME")
    # The specification says to ignore relative paths.
    if folder and Path(folder).is_absolute():
        return Path(folder)
    return Path.home() / _XDG_DEFAULTS[kind]


def compute_process() -> dict[str, str]:
    """Return the environment for a process that computes: ours, with short OpenMP spins.

    By default a thread that waits for its team spins for milliseconds. On cores that anybody else
    uses it then keeps the very threads it waits for from running: with two cores and a load of 8,
    small training steps took 8 times as long as with short spins, which cost nothing on idle cores.
    What the user has set stays.
    """
    inherited = dict(os.environ)
    if "OMP_WAIT_POLICY" not in inherited:
        inherited.setdefault("GOMP_SPINCOUNT", "2000")
    return inherited


def _first(*names: str) -> str | None:
    for name in names:
        value = os.environ.get(name, "").strip()
        if value:
            return value
    return None
