"""What goes wrong in a term of a loss; every error names the term."""

from __future__ import annotations

from tinsmith.core.errors import UserError

__all__ = ["RegularizerError", "RegularizerTimeoutError"]


class RegularizerError(UserError):
    """A term raised, returned something that is no loss, or is not finite.

    Attributes:
        name: of the term.
    """

    def __init__(
        self, message: str, *, name: str = "", field: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, field=field or f"regularizers[{name!r}]", hint=hint)
        self.name = name


class RegularizerTimeoutError(RegularizerError, TimeoutError):
    """A term took longer than its `timeout_s`."""
