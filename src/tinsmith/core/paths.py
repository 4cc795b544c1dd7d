"""Where Tinsmith keeps things, and how it writes them whole or not at all.

`TINSMITH_HOME` puts everything under one directory; without it runs and state live in the XDG data
directory, settings in config, downloads in cache. No function here creates a directory but the
`atomic_*` ones, which create parents.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from tinsmith.core import environment
from tinsmith.core.errors import AlreadyExistsError
from tinsmith.core.ids import new_id

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
    "telemetry_dir",
]

BUNDLED_MODEL = "tinsmith/tiny"
"""Name of the model that travels inside the package."""


def home_dir() -> Path:
    """Return the directory of runs and state."""
    return environment.home() or environment.xdg_home("data") / "tinsmith"


def runs_dir() -> Path:
    """Return the directory that holds one directory a training run."""
    return home_dir() / "runs"


def telemetry_dir() -> Path:
    """Return the folder in which the recorder keeps runs."""
    return home_dir() / "telemetry"


def state_dir() -> Path:
    """Return the service's state: checkpoints, logs and the embedded service's files."""
    return home_dir() / "state"


def config_dir() -> Path:
    """Return the directory of settings and keys."""
    home = environment.home()
    return home / "config" if home else environment.xdg_home("config") / "tinsmith"


def cache_dir() -> Path:
    """Return the directory of what can be fetched again; safe to delete."""
    home = environment.home()
    return home / "cache" if home else environment.xdg_home("cache") / "tinsmith"


def bundled_model_dir() -> Path:
    """Return the directory of the bundled model inside the package."""
    return Path(__file__).resolve().parent.parent / "bundled" / "tiny"


def atomic_write_text(path: str | Path, text: str, *, mode: int = 0o666) -> None:
    """Replace a file by UTF-8 text; readers see the old content or the new, never a part."""
    atomic_write_bytes(path, text.encode(), mode=mode)


def atomic_write_bytes(path: str | Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace a file by bytes; readers see the old content or the new, never a part.

    `mode` are the permissions from the first byte on, less what the umask takes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_sibling(path)
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: str | Path, *, overwrite: bool = False) -> Generator[Path]:
    """Fill a directory that appears under its name only when the body succeeded.

    The body writes into the yielded sibling; on an exception nothing is left. With `overwrite` the
    old directory goes after the new one is complete: for the instant between two renames neither
    has the name, and a crash right then leaves the old one beside it.

    Raises:
        AlreadyExistsError: the directory exists and `overwrite` is false.
    """
    path = Path(path)
    _require_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_sibling(path)
    partial.mkdir()
    try:
        yield partial
        _sync_tree(partial)
        _publish(partial, path, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_directory(path.parent)


def _publish(partial: Path, path: Path, *, overwrite: bool) -> None:
    _require_free(path, overwrite=overwrite)
    if not os.path.lexists(path):
        partial.rename(path)
        return
    old = _partial_sibling(path)
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _require_free(path: Path, *, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise AlreadyExistsError(f"path={str(path)!r}: exists already", field="path")


def _partial_sibling(path: Path) -> Path:
    # Beside the target, because a rename is atomic only within one file system.
    return path.parent / f".{path.name[:100]}.{new_id()[:8]}.partial"


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            with Path(folder, name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_directory(Path(folder))


def _sync_directory(directory: Path) -> None:
    # Makes a rename survive a power cut; file systems that cannot do it say so by OSError.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
