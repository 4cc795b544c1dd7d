"""Environments of their own for packages that must not disturb ours."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["interpreter"]


def interpreter(folder: Path, requirements: Sequence[str]) -> Path:
    """The Python of an environment with some packages, made if it is not there.

    Only the packages themselves are installed there. What they import is found behind them on the
    path, in the environment that runs this: some want all of torch, or name less than they need.
    """
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"installing {' '.join(requirements)} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        options = ["--quiet", "--disable-pip-version-check", "--no-deps"]
        options += os.environ.get("PIP_FLAGS", "").split()
        subprocess.run([str(python), "-m", "pip", "install", *options, *requirements], check=True)
        ready.touch()
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    # Paths of .pth files come after the folder that holds them: its own packages win.
    (site_packages / "zz_borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
