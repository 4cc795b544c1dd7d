"""Which code a run came from, as git tells it; quietly nothing where it cannot."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tinsmith.telemetry.model import GitState

__all__ = ["git_state"]

_TIMEOUT_S = 3.0
_MAX_DIFF_CHARS = 1_000_000


def git_state(folder: str | Path = ".") -> GitState | None:
    """Return revision, branch and uncommitted changes of a work tree; None outside of one.

    Changes of tracked files are in the diff; a file that git does not know makes the tree dirty
    only by being there.
    """
    revision = _git(folder, "rev-parse", "HEAD")
    if not revision:
        return None
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or None
    status = _git(folder, "status", "--porcelain") or ""
    diff = _git(folder, "diff", "--no-ext-diff", "--no-color", "HEAD") if status else None
    if diff and len(diff) > _MAX_DIFF_CHARS:
        diff = f"{diff[:_MAX_DIFF_CHARS]}\n[{len(diff) - _MAX_DIFF_CHARS:,} more characters]"
    return GitState(revision=revision, branch=branch, is_dirty=bool(status), diff=diff or None)


def _git(folder: str | Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            capture_output=True,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return done.stdout.decode("utf-8", "replace").rstrip("\n")
