"""What a run is handed, made usable or refused; every refusal is counted and told once.

Where mistakes are errors (`catalogue.strictly`, tests) a refusal raises instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsIndex

from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.telemetry.catalogue import is_strict
from tinsmith.telemetry.health import Health
from tinsmith.telemetry.payload import Refused, settle, shown, to_float

__all__ = ["FIRST_STEP", "LAST_STEP", "PLAIN", "Intake"]

FIRST_STEP, LAST_STEP = -(2**63), 2**63 - 1
PLAIN = frozenset({float, int, bool})
"""Types of values that need no look before they are queued."""


class Intake:
    """Checks values, measurements and steps of one run."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def settled(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return those values that are numbers, safe from later changes of the originals."""
        settled: dict[str, object] = {}
        for key, value in values.items():
            try:
                settled[key] = value if type(value) in PLAIN else settle(value)
            except Refused as error:
                self._refuse(key, error)
            except Exception as error:  # noqa: BLE001 - other people's objects may raise anything
                self._refuse(key, Refused(f"cannot be read: {type(error).__name__}: {error}"))
        return settled

    def measured(self, given: Mapping[str, object]) -> dict[str, float]:
        """Return those measurements that are numbers, as floats."""
        measured: dict[str, float] = {}
        for name, value in given.items():
            try:
                measured[str(name)] = value if type(value) is float else to_float(value)
            except Refused as error:
                self._refuse(name, error)
        return measured

    def step(self, step: object) -> int | None:
        """Return a step as an integer of 64 bits; None where it is missing or refused."""
        if step is None:
            return None
        try:
            number = to_float(step)
        except Exception:  # noqa: BLE001 - other people's objects may raise anything
            number = float("nan")
        if number == number // 1:
            # An index keeps all the digits that a float may not have.
            whole = step.__index__() if isinstance(step, SupportsIndex) else int(number)
            if FIRST_STEP <= whole <= LAST_STEP:
                return whole
        error = f"step={shown(step)}: must be a whole number of 64 bits"
        self.mistake("step", UserError(error, field="step"))
        return None

    def mistake(self, about: str, error: TinsmithError) -> None:
        """Raise where mistakes are errors; else count, and warn once of each."""
        if is_strict():
            raise error
        self._health.count("mistakes")
        self._health.warn_once(about[:200], str(error))

    def _refuse(self, key: str, reason: Refused) -> None:
        if is_strict():
            raise UserError(f"log: {shown(key)} is not recorded: {reason}")
        self._health.count("refused_values")
        self._health.warn_once(
            f"value of {shown(key)}", f"log: {shown(key)} is not recorded: {reason}"
        )
