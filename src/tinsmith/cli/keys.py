"""`tinsmith keys`: the API keys of a service, for its operator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from tinsmith.cli.asking import is_confirmed
from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import base_url_option, json_option
from tinsmith.cli.tables import print_json, print_table, relative_time
from tinsmith.cli.waiting import waiting_for

if TYPE_CHECKING:
    from tinsmith.client import AdminClient
    from tinsmith.types import KeyRecord

__all__ = ["COMMANDS", "create", "keys", "list_keys", "revoke"]

COMMANDS = {
    "create": LazyCommand("tinsmith.cli.keys:create", "Make a key for somebody."),
    "list": LazyCommand("tinsmith.cli.keys:list_keys", "List the keys that were made."),
    "revoke": LazyCommand("tinsmith.cli.keys:revoke", "End a key for good."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def keys() -> None:
    """Give people keys to a service you run.

    Asks for the operator's key, the one that `tinsmith serve --api-key` was started with.
    """


@click.command()
@click.argument("name")
@click.option("--note", default="", metavar="TEXT", help="What the key is for.")
@base_url_option
@json_option
def create(name: str, note: str, base_url: str | None, as_json: bool) -> None:
    """Make a key for somebody.

    It is shown this once: the service keeps only its hash.
    """
    with _open_admin(base_url) as admin, waiting_for("making a key"):
        created = admin.create_key(name, note).result()
    if as_json:
        print_json(created.model_dump(mode="json"))
        return
    click.echo(f"key {created.key_id} for {name}; it is shown this once", err=True)
    print(created.key)


@click.command("list")
@base_url_option
@json_option
def list_keys(base_url: str | None, as_json: bool) -> None:
    """List the keys that were made, the newest first."""
    with _open_admin(base_url) as admin, waiting_for("reading keys"):
        found = admin.list_keys().result().keys
    if as_json:
        print_json({"keys": [key.model_dump(mode="json") for key in found]})
        return
    print_table(
        f"{len(found)} key{'' if len(found) == 1 else 's'}",
        ("Id", "Name", "Begins", "Note", "Created", "Revoked"),
        [_row(key) for key in found],
    )


@click.command()
@click.argument("key_id", type=click.IntRange(1))
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
@base_url_option
def revoke(key_id: int, yes: bool, base_url: str | None) -> int:
    """End a key for good; what it made stays."""
    question = f"End key {key_id}? Whoever uses it is cut off"
    if not yes and not is_confirmed(question, what=f"key {key_id} would be ended"):
        click.echo("nothing was revoked", err=True)
        return 1
    with _open_admin(base_url) as admin, waiting_for("revoking the key"):
        admin.revoke_key(key_id).result()
    print(f"key {key_id} is revoked")
    return 0


def _row(key: "KeyRecord") -> tuple[str, ...]:
    revoked = relative_time(key.revoked_at) if key.revoked_at else "-"
    created = relative_time(key.created_at)
    return (str(key.key_id), key.name, f"{key.prefix}...", key.note or "-", created, revoked)


@contextmanager
def _open_admin(base_url: str | None) -> Iterator["AdminClient"]:
    from tinsmith.client import AdminClient

    with AdminClient(base_url=base_url) as admin:
        yield admin
