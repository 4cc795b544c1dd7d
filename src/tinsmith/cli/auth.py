"""`tinsmith auth`: the key of a service, kept in a file that only its owner can read."""

import sys
from typing import TYPE_CHECKING

import click

from tinsmith.cli.catalog import open_rest
from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import base_url_option, json_option
from tinsmith.cli.tables import print_json, print_properties, yes_or_no
from tinsmith.cli.waiting import waiting_for
from tinsmith.core import environment
from tinsmith.core.errors import TinsmithError, UserError

if TYPE_CHECKING:
    from tinsmith.client.credentials import FoundCredential
    from tinsmith.types import WhoamiResponse

__all__ = ["COMMANDS", "auth", "login", "logout", "status", "whoami"]

COMMANDS = {
    "login": LazyCommand("tinsmith.cli.auth:login", "Try a key and keep it."),
    "logout": LazyCommand("tinsmith.cli.auth:logout", "Forget the key that was kept."),
    "status": LazyCommand(
        "tinsmith.cli.auth:status", "Say where the key comes from, and if it works."
    ),
    "whoami": LazyCommand("tinsmith.cli.auth:whoami", "Say whose key it is."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def auth() -> None:
    """Keep the key of a service, and try it.

    The key that counts: --api-key of a script, TINSMITH_API_KEY, TINSMITH_CREDENTIAL_CMD, and last
    the file that `login` writes. The embedded service needs none.
    """


@click.command()
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin instead of asking.")
@base_url_option
def login(key_stdin: bool, base_url: str | None) -> None:
    """Try a key and keep it.

    It is kept for this address only, and goes to no other.
    """
    from tinsmith.client.credentials import StoredKey, credentials_file, store_key

    address = _address(base_url)
    key = _read_key(address, from_stdin=key_stdin)
    who = _asked(address, key)
    store_key(address, StoredKey(key, who.email or who.user_urn))
    print(f"the key is good and is kept in {credentials_file()} for {address}")
    if environment.api_key() or environment.credential_command():
        click.echo("note: an environment variable names another key, which goes first", err=True)


@click.command()
@base_url_option
def logout(base_url: str | None) -> None:
    """Forget the key that was kept.

    The service is not told: `tinsmith keys revoke` ends a key for good.
    """
    from tinsmith.client.credentials import forget_key

    address = _address(base_url)
    if not forget_key(address):
        raise UserError(f"no key is kept for {address}", hint="tinsmith auth status")
    print(f"the key for {address} is forgotten")


@click.command()
@base_url_option
@json_option
def status(base_url: str | None, as_json: bool) -> None:
    """Say where the key comes from, and if it works.

    The exit code is 1 where the service does not answer, or refuses the key.
    """
    address = (base_url or environment.base_url() or "").rstrip("/") or None
    found = _found(address)
    problem = _problem(address)
    source = "not needed" if address is None else found.source
    if as_json:
        told = {"service": address, "source": source, "accessible": problem is None}
        print_json({**told, "problem": problem})
    else:
        lines = [("Service", address or "embedded"), ("Key from", source)]
        lines.append(("Accessible", yes_or_no(problem is None)))
        print_properties(lines + ([("Problem", problem)] if problem else []))
    if problem:
        raise SystemExit(1)


@click.command()
@base_url_option
@json_option
def whoami(base_url: str | None, as_json: bool) -> None:
    """Say whose key it is."""
    with open_rest(base_url) as rest, waiting_for("asking the service"):
        who = rest.whoami().result()
    if as_json:
        print_json(who.model_dump(mode="json"))
        return
    print_properties(
        [("Email", who.email or "-"), ("User", who.user_urn), ("Organization", who.org_urn)]
    )


def _address(base_url: str | None) -> str:
    address = (base_url or environment.base_url() or "").rstrip("/")
    if not address:
        raise UserError(
            "the embedded service of this machine needs no key",
            field="base_url",
            hint="name a service: --base-url URL, or TINSMITH_BASE_URL",
        )
    return address


def _read_key(address: str, *, from_stdin: bool) -> str:
    from tinsmith.client.credentials import is_sendable

    if from_stdin:
        key = sys.stdin.readline().strip()
    elif not sys.stdin.isatty():
        raise UserError(
            "there is no terminal to ask for the key",
            field="key",
            hint="tinsmith auth login --key-stdin < FILE",
        )
    else:
        key = str(click.prompt(f"API key for {address}", hide_input=True, err=True)).strip()
    if not key or not is_sendable(key):
        raise UserError("a key is one line of plain text", field="key")
    return key


def _asked(address: str, key: str) -> "WhoamiResponse":
    """Whose key it is, by the service's word; a service that does not know must at least answer."""
    from tinsmith.client import RestClient
    from tinsmith.core.errors import ServerError
    from tinsmith.types import WhoamiResponse

    with RestClient(base_url=address, api_key=key) as rest, waiting_for("trying the key"):
        rest.get_server_capabilities().result()
        try:
            return rest.whoami().result()
        except ServerError:  # it keeps no record of keys, and has just taken this one
            return WhoamiResponse(user_urn="", org_urn="")


def _found(address: str | None) -> "FoundCredential":
    from tinsmith.client.credentials import FoundCredential, find_credential

    return FoundCredential() if address is None else find_credential(address, None)


def _problem(address: str | None) -> str | None:
    from tinsmith.client import ServiceClient

    try:
        with ServiceClient(base_url=address, max_retries=0) as service, waiting_for("asking"):
            service.get_server_capabilities().result()
    except (TinsmithError, OSError) as error:
        return str(error)
    return None
