"""The official command line, run in this process: a process of its own takes seconds to start."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from tests.integration.service_process import ServiceProcess
from tests.interop.conftest import API_KEY
from tests.interop.recorder import CALLED, commands


def run_cli(
    service: ServiceProcess, home: Path, *arguments: str, key: str | None = API_KEY
) -> Result:
    """Run one command with a home folder of its own."""
    from tinker.cli.__main__ import main_cli

    words = [word for word in arguments if word not in ("--format", "json")]
    CALLED.update(
        name for name in commands(main_cli) if name.split() == words[: name.count(" ") + 1]
    )
    environment = {
        "TINKER_BASE_URL": service.ready["url"],
        "TINKER_API_KEY": key,
        "HOME": str(home),
    }
    return CliRunner(env=environment).invoke(main_cli, arguments)


def official_cli(service: ServiceProcess, home: Path, *arguments: str) -> str:
    """What a command that must succeed prints."""
    done = run_cli(service, home, *arguments)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.stdout
