"""`tinsmith version`."""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

import click

import tinsmith

__all__ = ["version"]

PACKAGES = ("torch", "transformers", "peft", "numpy", "pydantic")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print versions."""
    found: dict[str, str | None] = {
        "tinsmith": tinsmith.__version__,
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = installed_version(package)
        except PackageNotFoundError:
            found[package] = None
    if as_json:
        print(json.dumps(found))
        return
    for name, number in found.items():
        print(f"{name:14}{number or 'not installed'}")
