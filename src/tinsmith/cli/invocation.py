"""How to call this command line again, for texts that people paste."""

import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["command_prefix"]


def command_prefix() -> str:
    """Return `tinsmith` where the shell would find this installation, else the script's path."""
    script = Path(sys.executable).parent / "tinsmith"
    found = shutil.which("tinsmith")
    if not script.exists() or (found and Path(found).resolve() == script.resolve()):
        return "tinsmith"
    folder = Path.cwd()
    shown = script.relative_to(folder) if script.is_relative_to(folder) else script
    return shlex.quote(str(shown))
