"""Where a run comes from: command line, code revision and package versions, for `config.json`."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("tinsmith", "torch", "transformers", "tokenizers", "numpy", "pydantic", "httpx")
_GIT_TIMEOUT_S = 5
_MAX_DIFF_BYTES = 1_000_000


def make_manifest() -> dict[str, Any]:
    """Facts about this process; `diff` holds the uncommitted changes of the working directory.

    Versions are read from package metadata, so that no package is imported for them.
    """
    revision = _git("rev-parse", "HEAD")
    diff = (_git("diff", "HEAD") or "") if revision else ""
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": sys.orig_argv,
        "git": {"revision": revision, "has_uncommitted_changes": bool(diff)} if revision else None,
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "diff": diff if len(diff.encode()) <= _MAX_DIFF_BYTES else "",
    }


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    """Output of a git command in the working directory; None where there is no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            check=True,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace").strip()
