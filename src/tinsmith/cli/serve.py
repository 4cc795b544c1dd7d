"""`tinsmith serve`: the service as a process of its own."""

import click

__all__ = ["serve"]
