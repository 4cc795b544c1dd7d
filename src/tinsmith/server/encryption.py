"""Encrypting exported files to keys of age (https://age-encryption.org), with pyrage.

The service holds public keys only: what it has encrypted it cannot read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinsmith.core.errors import ConfigError, missing_extra

MAX_RECIPIENTS = 10
SUFFIX = ".age"


def check_recipients(recipients: Sequence[str] | None) -> None:
    """Checks the public keys of a request, before anything is written.

    Raises:
        ConfigError: one is no public key of age, or there are none or too many.
        MissingExtraError: pyrage is not installed here.
    """
    if recipients is None:
        return
    field = "age_encryption_recipients"
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise ConfigError(
            f"{field}: {len(recipients)} keys, must be 1..{MAX_RECIPIENTS}",
            field=field,
            hint="leave it out to write plain files",
        )
    _parsed(recipients)


def encrypt_files(directory: Path, recipients: Sequence[str]) -> None:
    """Replaces every file of a directory by its encryption, `name.age`."""
    from pyrage import encrypt_file  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

    keys = _parsed(recipients)
    for file in [path for path in directory.rglob("*") if path.is_file()]:
        encrypt_file(str(file), str(file) + SUFFIX, keys)
        file.unlink()


def _parsed(recipients: Sequence[str]) -> list[object]:
    try:
        from pyrage import (  # has no stubs
            RecipientError,  # pyright: ignore[reportAttributeAccessIssue]
            x25519,  # pyright: ignore[reportAttributeAccessIssue]
        )
    except ImportError as error:
        raise missing_extra("pyrage", "age") from error
    keys: list[object] = []
    for index, text in enumerate(recipients):
        try:
            keys.append(x25519.Recipient.from_str(text))
        except RecipientError as error:
            field = f"age_encryption_recipients.{index}"
            raise ConfigError(
                f"{field}={text[:80]!r}: is no public key of age ({error})",
                field=field,
                hint="it begins with age1; age-keygen makes one",
            ) from error
    return keys
