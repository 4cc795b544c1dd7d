"""Where sampler weights lie on this machine, if they do."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from tinsmith.core.paths import state_dir

_SCHEME = "tinker://"


def local_adapter_dir(sampler_path: str) -> Path | None:
    """Directory of the PEFT adapter behind a `tinker://` address.

    The embedded service keeps its checkpoints in the state directory; the directory is believed
    only if its own record names the address. None for a service elsewhere.
    """
    if not sampler_path.startswith(_SCHEME):
        return None
    parts = (quote(part, safe="") for part in sampler_path.removeprefix(_SCHEME).split("/"))
    directory = state_dir().joinpath("checkpoints", *parts)
    try:
        record = json.loads((directory / "checkpoint.json").read_bytes())
    except (OSError, ValueError):
        return None
    is_the_one = isinstance(record, dict) and record.get("path") == sampler_path
    has_adapter = (directory / "adapter_config.json").exists()
    return directory if is_the_one and has_adapter else None
