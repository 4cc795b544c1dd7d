"""The `tinsmith` command."""

import click

__all__ = ["main"]


@click.group()
def main() -> None:
    """Fine-tune language models through four primitives."""
