"""`tinsmith doctor`: what works on this machine, and what to install or mend."""

import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

import click

from tinsmith.cli.options import base_url_option, json_option
from tinsmith.cli.waiting import waiting_for
from tinsmith.core import environment, paths
from tinsmith.core.errors import TinsmithError

__all__ = ["Check", "doctor", "examine"]

OLDEST_PYTHON = (3, 11)
ENGINE_PACKAGES = ("torch", "transformers", "safetensors", "starlette", "uvicorn", "jinja2")
ENOUGH_DISK_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    works: bool
    detail: str
    cure: str | None = None
    """What to do where it does not work."""


@click.command()
@click.option("--quick", is_flag=True, help="Do not start the embedded service.")
@base_url_option
@json_option
def doctor(quick: bool, base_url: str | None, as_json: bool) -> int:
    """Say what works on this machine and what to install."""
    checks = examine(base_url=base_url, quick=quick)
    if as_json:
        print(json.dumps([asdict(check) for check in checks]))
    else:
        _print(checks)
    return 0 if all(check.works for check in checks) else 1


def examine(*, base_url: str | None, quick: bool) -> list[Check]:
    """Look at everything; the service last, since it needs the rest.

    Where a service is named, this machine needs no engine, and none is looked for.
    """
    named = base_url or environment.base_url()
    checks = [_python(), _bundled_model(), _state_folder(), _disk()]
    if named is None:
        checks += [_engine_packages(), _torch()]
    can_start = all(check.works for check in checks)
    if not quick and (named or can_start):
        checks.append(_service(named))
    return checks


def _python() -> Check:
    found = platform.python_version()
    return Check(
        "python",
        sys.version_info >= OLDEST_PYTHON,
        f"{found} at {sys.executable}",
        "install Python 3.11 or newer",
    )


def _engine_packages() -> Check:
    missing = [name for name in ENGINE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "engine packages",
            works=False,
            detail=f"not installed: {', '.join(missing)}",
            cure='pip install "tinsmith[engine]", or name a service with TINSMITH_BASE_URL',
        )
    return Check("engine packages", works=True, detail=", ".join(map(_numbered, ENGINE_PACKAGES)))


def _numbered(package: str) -> str:
    try:
        return f"{package} {installed_version(package)}"
    except PackageNotFoundError:
        return package


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check(
            "device", works=False, detail="no torch", cure='pip install "tinsmith[engine]"'
        )
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 1e9
        return Check("device", works=True, detail=f"cuda: {properties.name}, {memory:.0f} GB")
    detail = f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    return Check("device", works=True, detail=detail)


def _bundled_model() -> Check:
    folder = paths.bundled_model_dir()
    return Check(
        "bundled model",
        (folder / "config.json").exists() and any(folder.glob("*.safetensors")),
        f"{paths.BUNDLED_MODEL} in {folder}",
        "reinstall tinsmith: the package lacks its model",
    )


def _state_folder() -> Check:
    folder = paths.state_dir()
    cure = "set TINSMITH_HOME to a folder that you may write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("state folder", works=False, detail=str(error), cure=cure)
    return Check("state folder", works=True, detail=f"{folder} is writable")


def _disk() -> Check:
    folder: Path = paths.state_dir()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    return Check(
        "disk",
        free_bytes >= ENOUGH_DISK_BYTES,
        f"{free_bytes / 1e9:.1f} GB free at {folder}",
        "free some space, or set TINSMITH_HOME to a larger disk",
    )


def _service(named: str | None) -> Check:
    from tinsmith.client import ServiceClient

    name = f"service at {named}" if named else "embedded service"
    try:
        with waiting_for(name), ServiceClient(base_url=named) as service:
            capabilities = service.get_server_capabilities().result()
    except TinsmithError as error:
        return Check(name, works=False, detail=error.message, cure=error.hint)
    models = ", ".join(str(model.model_name) for model in capabilities.supported_models)
    return Check(name, works=True, detail=f"answers; models: {models or 'any'}")


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        sign = "[green]ok  [/]" if check.works else "[red]no  [/]"
        console.print(f"{sign} {check.name:18} {escape(check.detail)}")
        if not check.works and check.cure:
            console.print(f"     {'':18} {escape(check.cure)}")
