"""Who is asking: the caller behind a credential, the record of an API key, a short-lived token."""

from __future__ import annotations

from datetime import datetime

from tinsmith.types._model import ResponseModel

__all__ = [
    "ApiKeyDetails",
    "ApiKeyOrganization",
    "ApiKeyResponse",
    "ApiKeyUser",
    "AuthTokenResponse",
    "CreatedKey",
    "KeyRecord",
    "KeysResponse",
    "WhoamiResponse",
]


class WhoamiResponse(ResponseModel):
    """The caller."""

    user_urn: str
    org_urn: str
    """The organization that the credential acts in."""
    email: str | None = None


class ApiKeyOrganization(ResponseModel):
    """The organization of a key."""

    name: str | None = None


class ApiKeyUser(ResponseModel):
    """The user of a key."""

    email: str | None = None


class ApiKeyDetails(ResponseModel):
    """Whose key it is."""

    org_details: ApiKeyOrganization = ApiKeyOrganization()
    user_details: ApiKeyUser = ApiKeyUser()


class ApiKeyResponse(ResponseModel):
    """The record of the key that asks."""

    key_id: int
    name: str | None = None
    note: str | None = None
    details: ApiKeyDetails = ApiKeyDetails()


class AuthTokenResponse(ResponseModel):
    """What a key was exchanged for."""

    jwt: str


class KeyRecord(ResponseModel):
    """What the operator of a Tinsmith service sees of an API key."""

    key_id: int
    prefix: str
    """Its first characters, to tell keys apart."""
    name: str
    note: str = ""
    created_at: datetime
    revoked_at: datetime | None = None
    """None while the key is good."""


class CreatedKey(KeyRecord):
    """A new key; the only time that the service tells it."""

    key: str


class KeysResponse(ResponseModel):
    """All keys, the newest first."""

    keys: list[KeyRecord]
