"""The command line: thin commands over the SDK and the training loops.

`main` is what the `tinsmith` script calls. Commands live one to a module and are imported when they
are asked for, so that `tinsmith --help` stays light.
"""

from tinsmith.cli.app import main

__all__ = ["main"]
