"""What the recorder's stores raise; a `Run` turns them into counted, visible degradation.

ServerError
└─ StoreError        the store could not do it: disk full, file locked or corrupt, no server
UserError
└─ WriterBusyError   another live process writes this rank of the run
UserWarning
└─ TelemetryWarning  said once: something was refused, cut, dropped or not registered
"""

from __future__ import annotations

from tinsmith.core.errors import ServerError, UserError

__all__ = ["StoreError", "TelemetryWarning", "WriterBusyError"]


class StoreError(ServerError):
    """A store could not read or write; nothing of the transaction is there.

    Attributes:
        is_permanent: trying again cannot help, as with a corrupt file.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        is_permanent: bool = False,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.is_permanent = is_permanent


class WriterBusyError(UserError):
    """Another live process writes this rank of this run."""


class TelemetryWarning(UserWarning):
    """The recorder could not keep something; the run goes on."""
