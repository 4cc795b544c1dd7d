"""API keys: made by the operator, shown once, stored as hashes.

Keys are long and random, so a plain SHA-256 of one cannot be turned back. The living ones are held
in memory; a request costs one look into a table.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tinsmith.server.access import current_key_id
from tinsmith.server.errors import ForbiddenError, MissingError, RequestError
from tinsmith.server.metadata import MetadataStore
from tinsmith.server.metadata.listings import Viewer
from tinsmith.server.metadata.tables import api_keys

PREFIX = "tml-"
SHOWN_CHARS = 10
"""How much of a key is kept in clear, to tell keys apart."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of an API key."""

    key_id: int
    prefix: str
    name: str
    note: str
    created_at: float
    revoked_at: float | None


class KeyRegistry:
    """The API keys of the service. Lives on the event loop."""

    def __init__(self, metadata: MetadataStore, operator_key: str | None) -> None:
        self._metadata = metadata
        self._operator_key = operator_key
        self._living: dict[str, int] = {}

    async def load(self) -> None:
        """Reads the living keys."""
        self._living = await self._metadata.run(_living_hashes)

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for: the service has no operator's key."""
        return self._operator_key is None

    def check(self, key: bytes) -> tuple[bool, int | None]:
        """Whether a key is good, and its id; the operator's has none."""
        if self._operator_key is None:
            return True, None
        if hmac.compare_digest(key, self._operator_key.encode()):
            return True, None
        key_id = self._living.get(_hash(key))
        return key_id is not None, key_id

    def viewer_by(self, token: str, *, field: str) -> Viewer:
        """Who sees what the owner of a key sees, published things of others not among it.

        Raises:
            RequestError: the service has no keys at all.
            ForbiddenError: it is no living key.
        """
        if self.is_open:
            raise RequestError(
                f"{field}: this service asks for no keys, and everything is open to everyone",
                field=field,
                hint=f"leave {field} out",
            )
        is_good, key_id = self.check(token.encode())
        if not is_good:
            raise ForbiddenError(
                f"{field}: is no key of this service, or was revoked",
                field=field,
                hint="ask the checkpoint's owner for one, or to publish the checkpoint",
            )
        return Viewer(key_id, is_wide=False)

    async def create(self, name: str, note: str) -> tuple[KeyRecord, str]:
        """Makes a key; returns its record and the key, which is told this once.

        Raises:
            ForbiddenError: the caller is not the operator.
            RequestError: the service asks for no key at all.
        """
        _require_operator()
        if self._operator_key is None:
            raise RequestError(
                "this service has no operator's key, so that nobody needs a key",
                hint="start it with --api-key, then make keys for others",
            )
        key = PREFIX + secrets.token_urlsafe(32)
        values = {
            "key_hash": _hash(key.encode()),
            "prefix": key[:SHOWN_CHARS],
            "name": name,
            "note": note,
            "created_at": time.time(),
        }
        record = await self._metadata.run(partial(_insert, values=values))
        self._living[_hash(key.encode())] = record.key_id
        return record, key

    async def records(self) -> list[KeyRecord]:
        """All keys, the revoked ones too, the newest first.

        Raises:
            ForbiddenError: the caller is not the operator.
        """
        _require_operator()
        return await self._metadata.run(_records)

    async def record(self, key_id: int) -> KeyRecord:
        """One key.

        Raises:
            MissingError: there is none.
        """
        for record in await self._metadata.run(_records):
            if record.key_id == key_id:
                return record
        raise MissingError(
            f"key_id={key_id}: unknown", field="key_id", hint="list the keys to see which there are"
        )

    async def revoke(self, key_id: int) -> None:
        """Ends a key at once; what it made stays. Again is no mistake.

        Raises:
            ForbiddenError: the key is neither the caller's own nor is the caller the operator.
            MissingError: there is none.
        """
        if current_key_id() != key_id:
            _require_operator()
        await self.record(key_id)
        self._living = {h: found for h, found in self._living.items() if found != key_id}
        await self._metadata.run(partial(_revoke, key_id=key_id, now_s=time.time()))


def _require_operator() -> None:
    if current_key_id() is not None:
        raise ForbiddenError(
            "API keys are the operator's business",
            field="X-API-Key",
            hint="use the key that the service was started with",
        )


def _hash(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _living_hashes(connection: Connection) -> dict[str, int]:
    living = sa.select(api_keys.c.key_hash, api_keys.c.key_id).where(
        api_keys.c.revoked_at.is_(None)
    )
    return {row.key_hash: row.key_id for row in connection.execute(living)}


def _insert(connection: Connection, *, values: dict[str, object]) -> KeyRecord:
    insert = sa.insert(api_keys).values(values).returning(api_keys.c.key_id)
    key_id = connection.scalar(insert)
    return next(record for record in _records(connection) if record.key_id == key_id)


def _records(connection: Connection) -> list[KeyRecord]:
    names = ("key_id", "prefix", "name", "note", "created_at", "revoked_at")
    wanted = sa.select(*(api_keys.c[name] for name in names)).order_by(api_keys.c.key_id.desc())
    return [KeyRecord(*row) for row in connection.execute(wanted)]


def _revoke(connection: Connection, *, key_id: int, now_s: float) -> None:
    is_it = sa.and_(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
    connection.execute(sa.update(api_keys).where(is_it).values(revoked_at=now_s))
