"""What happens while a loss is computed, told to an observer; a recorder can be one.

Events are `custom_loss.start`, `.stop`, `.exception` for the call and `regularizer.start`, `.stop`,
`.exception` for each term. Durations are in seconds. Main names: `LossEvent`, `Observer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["LossEvent", "Observer", "tell"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossEvent:
    """One event.

    Attributes:
        name: Such as `regularizer.stop`.
        measurements: `time_ns` at a start; at a stop `duration_s`, and what was computed, None
            where it was not; at an exception `duration_s`.
        metadata: `name` and `weight` of a term, `num_regularizers`, `num_datums` and
            `track_grad_norms` of the call, `reason` of an exception.
    """

    name: str
    measurements: Mapping[str, float | None]
    metadata: Mapping[str, str | float | bool]


Observer = Callable[[LossEvent], None]
"""Called in the thread that computes the loss; what it raises is logged and changes nothing."""


def tell(observer: Observer | None, event: LossEvent) -> None:
    """Pass an event on; an observer never harms training."""
    if observer is None:
        return
    try:
        observer(event)
    except Exception:
        logger.exception("observer of %s failed", event.name)
