"""`tinsmith conformance`."""

import contextlib
import fnmatch
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.tables import print_json
from tinsmith.cli.waiting import waiting_for
from tinsmith.core import environment
from tinsmith.core.errors import ConfigError

if TYPE_CHECKING:
    from tinsmith.cli.conformance.registry import Check

__all__ = ["conformance"]

DEFAULT_KEY = "tml-conformance"


@click.command()
@click.argument("url", required=False)
@click.option(
    "--api-key", metavar="KEY", help="The server's key; default: TINSMITH_API_KEY, TINKER_API_KEY."
)
@click.option("--model", metavar="MODEL", help="The base model; default: the server's first.")
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Checks to run, as `losses.*` or `delivery.out_of_order`; may be repeated.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=2e-3,
    show_default=True,
    help="How far log-probabilities may differ by rounding; 0.1 suits bfloat16.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(1),
    default=120.0,
    show_default=True,
    help="The longest wait for one result.",
)
@click.option(
    "--restart-command",
    metavar="COMMAND",
    help="Shell command that restarts the server and returns when it answers at the same URL.",
)
@click.option("--list", "only_list", is_flag=True, help="List the checks and what they prove.")
@json_option
def conformance(
    url: str | None,
    api_key: str | None,
    model: str | None,
    only: tuple[str, ...],
    tolerance: float,
    timeout_s: float,
    restart_command: str | None,
    only_list: bool,
    as_json: bool,
) -> int:
    """Score a server of the protocol with the official client.

    Without URL it starts a service of this installation, restarts it on the way, and ends it. Exit
    code 0: full score; 1: something failed.
    """
    checks = chosen(only)
    if only_list:
        _print_list(checks, as_json=as_json)
        return 0
    from tinsmith.cli.conformance.local_service import LocalService
    from tinsmith.cli.conformance.server import Server
    from tinsmith.cli.conformance.sheet import print_sheet, run_checks

    key = api_key or environment.api_key() or DEFAULT_KEY
    restart = _shell(restart_command) if restart_command else None
    with contextlib.ExitStack() as stack:
        if url is None:
            with waiting_for("starting a service"):
                local = stack.enter_context(LocalService())
            url, key, restart = local.url, local.api_key, local.restart
        server = stack.enter_context(
            Server(
                url,
                api_key=key,
                base_model=model,
                tolerance=tolerance,
                timeout_s=timeout_s,
                restart=restart,
            )
        )
        sheet = run_checks(server, checks, on_start=_say)
    if as_json:
        print_json(sheet.as_json())
    else:
        print_sheet(sheet)
    return 0 if sheet.is_full else 1


def chosen(patterns: Sequence[str]) -> "list[Check]":
    """Return the checks that the patterns name; all without a pattern.

    Raises:
        ConfigError: a pattern names none.
    """
    from tinsmith.cli.conformance.registry import all_checks

    checks = all_checks()
    for pattern in patterns:
        if not fnmatch.filter([check.name for check in checks], pattern):
            raise ConfigError(
                f"--only {pattern}: no such check",
                field="only",
                hint="`tinsmith conformance --list` lists them",
            )
    return [
        check
        for check in checks
        if not patterns or any(fnmatch.fnmatch(check.name, pattern) for pattern in patterns)
    ]


def _shell(command: str) -> Callable[[], None]:
    def restart() -> None:
        subprocess.run(command, shell=True, check=True)

    return restart


def _say(check: "Check") -> None:
    if sys.stderr.isatty():
        print(check.name, file=sys.stderr)


def _print_list(checks: "list[Check]", *, as_json: bool) -> None:
    if as_json:
        fields = ("name", "title", "proves", "points")
        print_json([{field: getattr(check, field) for field in fields} for check in checks])
        return
    for check in checks:
        print(f"{check.points}  {check.name:44} {check.title}\n{'':48}{check.proves}")
