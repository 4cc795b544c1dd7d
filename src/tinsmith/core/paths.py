"""Where things live (XDG directories, one override) and how files are replaced atomically."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinsmith.core.environment import variable

__all__ = [
    "BUNDLED_MODEL",
    "atomic_directory",
    "atomic_write_bytes",
    "atomic_write_text",
    "bundled_model_dir",
    "cache_dir",
    "config_dir",
    "home_dir",
    "runs_dir",
    "state_dir",
]

BUNDLED_MODEL = "tinsmith/tiny"
"""Name of the model that comes with the package."""


def _xdg(name: str, fallback: str) -> Path:
    base = variable(name)
    return (Path(base) if base else Path.home() / fallback) / "tinsmith"


def home_dir() -> Path:
    """Data: `$TINSMITH_HOME`, else `$XDG_DATA_HOME/tinsmith`, else `~/.local/share/tinsmith`."""
    override = variable("TINSMITH_HOME")
    return Path(override).expanduser() if override else _xdg("XDG_DATA_HOME", ".local/share")


def runs_dir() -> Path:
    """Run directories of training jobs."""
    return home_dir() / "runs"


def state_dir() -> Path:
    """State of the service: checkpoints, logs, where the embedded service listens."""
    return home_dir() / "service"


def config_dir() -> Path:
    """Settings and keys."""
    override = variable("TINSMITH_HOME")
    return Path(override).expanduser() / "config" if override else _xdg("XDG_CONFIG_HOME", ".config")


def cache_dir() -> Path:
    """Downloads; safe to delete."""
    override = variable("TINSMITH_HOME")
    return Path(override).expanduser() / "cache" if override else _xdg("XDG_CACHE_HOME", ".cache")


def bundled_model_dir() -> Path:
    """Directory of the model that comes with the package (`BUNDLED_MODEL`)."""
    return Path(__file__).resolve().parent.parent / "bundled" / "tiny"


def atomic_write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace `path` by `text` (UTF-8): readers see the old file or the new one, never a part."""
    atomic_write_bytes(path, text.encode("utf-8"), mode=mode)


def atomic_write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`; on disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new directory that appears at `path`, complete and on disk, when the block succeeds.

    Inside the block write into the yielded directory. If the block raises, nothing is left.

    Raises:
        FileExistsError: `path` exists and `overwrite` is off.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        staging.chmod(0o755)
        yield staging
        for item in [*staging.rglob("*"), staging]:
            _sync(item)
        if path.exists():
            if not overwrite:
                raise FileExistsError(f"{path} exists")
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old / path.name)
            os.replace(staging, path)
            shutil.rmtree(old)
        else:
            os.replace(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
