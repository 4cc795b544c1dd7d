"""The `tinsmith` command: its table of commands, and the boundary where errors become exit codes.

Exit codes: 0 ok, 1 failed, 2 usage, 130 interrupted. Messages go to stderr as `error: ...` with a
`hint: ...` below; `--debug` anywhere on the line adds the traceback.
"""

import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.core import environment
from tinsmith.core.errors import ConfigError, TinsmithError, unknown_name

__all__ = ["main", "tinsmith"]

COMMANDS = {
    "demo": LazyCommand(
        "tinsmith.cli.demo:demo", "Fine-tune the bundled model and show what changed."
    ),
    "train": LazyCommand("tinsmith.cli.train:train", "Train on data of your own."),
    "sample": LazyCommand("tinsmith.cli.sample:sample", "Answer one prompt."),
    "chat": LazyCommand("tinsmith.cli.chat:chat", "Talk with a model in the terminal."),
    "serve": LazyCommand("tinsmith.cli.serve:serve", "Serve models to many people."),
    "models": LazyCommand("tinsmith.cli.models:models", "Look at the service's training runs."),
    "checkpoints": LazyCommand("tinsmith.cli.checkpoints:checkpoints", "Look after saved weights."),
    "sessions": LazyCommand("tinsmith.cli.sessions:sessions", "Look at the service's sessions."),
    "runs": LazyCommand("tinsmith.cli.runs.command:runs", "Look at recorded runs."),
    "data": LazyCommand("tinsmith.cli.data:data", "Look at training data."),
    "model-info": LazyCommand(
        "tinsmith.cli.model_info:model_info", "Say what is known of base models."
    ),
    "renderers": LazyCommand(
        "tinsmith.cli.renderers:renderers", "Look at how conversations become tokens."
    ),
    "regularizers": LazyCommand(
        "tinsmith.cli.regularizers:regularizers", "Look at terms of the loss and what they do."
    ),
    "auth": LazyCommand("tinsmith.cli.auth:auth", "Keep the key of a service, and try it."),
    "keys": LazyCommand("tinsmith.cli.keys:keys", "Give people keys to a service you run."),
    "conformance": LazyCommand(
        "tinsmith.cli.conformance.command:conformance",
        "Score a server of the protocol with the official client.",
    ),
    "doctor": LazyCommand(
        "tinsmith.cli.doctor:doctor", "Say what works on this machine and what to install."
    ),
    "version": LazyCommand("tinsmith.cli.version:version", "Print versions."),
}

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def tinsmith() -> None:
    """Fine-tune language models through four primitives, from a laptop to a cluster.

    Start with `tinsmith demo`. Add --debug to any command to see tracebacks.
    """
    level = environment.log_level()
    if level is not None:
        _show_logs(level)


def _show_logs(level: str) -> None:
    """Send our log records to stderr: the library configures no handler, its command does."""
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise unknown_name("log level", level, [name.lower() for name in known], "TINSMITH_LOG")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("tinsmith").setLevel(known[level.upper()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        result = tinsmith.main(args=words, prog_name="tinsmith", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return USAGE
    except SystemExit as stop:  # a help text of tyro's ends this way
        return stop.code if isinstance(stop.code, int) else OK
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`tinsmith sample ... | head`): nothing to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001 - the process boundary: it reports and exits
        return report(error, debug=debug)
    return result if isinstance(result, int) else OK


def report(error: Exception, *, debug: bool) -> int:
    """Print an error the house way and return the exit code that fits it."""
    if debug:
        traceback.print_exception(error)
    message, hint, code = explain(error)
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


def explain(error: Exception) -> tuple[str, str | None, int]:
    """Return an error's message, its hint and its exit code."""
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"see {context.command_path} --help" if context else None
        return error.format_message(), hint, error.exit_code
    if isinstance(error, TinsmithError):
        code = USAGE if isinstance(error, ConfigError) else FAILED
        return error.message, error.hint, code
    if isinstance(error, OSError):
        return str(error), None, FAILED
    return (
        f"unexpected {type(error).__name__}: {error}",
        "run the command again with --debug and report the traceback",
        FAILED,
    )
