"""Who is asking: the caller behind a credential, and the record of an API key."""

from __future__ import annotations

from tinsmith.types._model import ResponseModel

__all__ = ["ApiKeyDetails", "ApiKeyOrganization", "ApiKeyResponse", "ApiKeyUser", "WhoamiResponse"]


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
