"""`tinsmith sessions`: whose clients are, or were, connected to a service."""

from typing import TYPE_CHECKING

import click

from tinsmith.cli.catalog import open_rest
from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import accessible_option, base_url_option, json_option, limit_option
from tinsmith.cli.tables import print_json, print_table, relative_time, size_text
from tinsmith.cli.waiting import waiting_for

if TYPE_CHECKING:
    from tinsmith.client import RestClient
    from tinsmith.types import AccessScope, SessionSummary

__all__ = ["COMMANDS", "list_sessions", "sessions"]

COMMANDS = {
    "list": LazyCommand("tinsmith.cli.sessions:list_sessions", "List the service's sessions."),
}
PAGE = 200


@click.group(cls=LazyGroup, lazy=COMMANDS)
def sessions() -> None:
    """Look at the service's sessions."""


@click.command("list")
@limit_option
@accessible_option
@base_url_option
@json_option
def list_sessions(
    limit: int, access_scope: "AccessScope", base_url: str | None, as_json: bool
) -> None:
    """List the service's sessions, newest first."""
    with open_rest(base_url) as rest, waiting_for("reading sessions"):
        found, is_all = read_sessions(rest, limit=limit, access_scope=access_scope)
    if as_json:
        print_json({"sessions": [session.model_dump(mode="json") for session in found]})
        return
    title = f"{len(found)} session{'' if len(found) == 1 else 's'}"
    print_table(
        title if is_all else f"{title} (more not shown; --limit 0: all)",
        ("Session", "Name", "Status", "Created", "Checkpoints", "Size"),
        [_row(session) for session in found],
    )


def read_sessions(
    rest: "RestClient", *, limit: int, access_scope: "AccessScope"
) -> tuple[list["SessionSummary"], bool]:
    """Read sessions, and say whether these are all; a limit of 0 reads all."""
    from tinsmith.types import AccessibleSearchOwner, OwnSearchOwner, SessionSearchRequest

    owner = OwnSearchOwner() if access_scope == "owned" else AccessibleSearchOwner()
    found: list[SessionSummary] = []
    cursor = None
    while True:
        wanted = min(PAGE, limit - len(found)) if limit else PAGE
        request = SessionSearchRequest(owner=owner, limit=wanted, cursor=cursor)
        answer = rest.search_sessions(request).result()
        found += answer.sessions
        cursor = answer.next_cursor
        if cursor is None or not answer.sessions or (limit and len(found) >= limit):
            return found, cursor is None


def status_text(session: "SessionSummary") -> str:
    """Say how a session stands."""
    status = session.status
    if status is None:
        return "gone"
    return status.reason.type if status.type == "client_finished" else status.type


def _row(session: "SessionSummary") -> tuple[str, ...]:
    return (
        session.session_id,
        session.display_name or "-",
        status_text(session),
        relative_time(session.created_at),
        str(session.checkpoints_count),
        size_text(session.checkpoint_storage_bytes),
    )
