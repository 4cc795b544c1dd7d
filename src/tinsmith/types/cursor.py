"""`Cursor`: where a page lies in a list that is read page by page."""

from __future__ import annotations

from tinsmith.types._model import ResponseModel

__all__ = ["Cursor"]


class Cursor(ResponseModel):
    """A page's place in a list."""

    offset: int
    """Items before this page."""
    limit: int
    """Items on a page at most."""
    total_count: int
    """Items in the whole list."""
