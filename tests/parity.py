"""What the parity suites compared with chat templates, told after the tests.

Each process counts for itself; under pytest-xdist the workers send their counts to the process that
prints, which collects no test of its own: so the hooks stand in the top `conftest.py`.
"""

from collections import Counter
from typing import Any

import pytest

WORKER_KEY = "parity"


class ParityTally:
    """What was compared: (family, suite, counts)."""

    def __init__(self) -> None:
        self.compared: list[tuple[str, str, dict[str, int]]] = []

    def add(self, family: object, suite: str, counts: Counter[str]) -> None:
        self.compared.append((str(family), suite, dict(counts)))

    @property
    def lines(self) -> list[str]:
        return [f"{family}, {suite}: {counts}" for family, suite, counts in self.compared]

    @property
    def total(self) -> str:
        counts: Counter[str] = Counter()
        for _, _, part in self.compared:
            counts.update(part)
        compared = counts["equal"] + counts["random conversations"] + counts["recorded"]
        refused = counts["refused"] + counts["template refuses"]
        return (
            f"in all: {len({family for family, _, _ in self.compared})} families, {compared} "
            f"conversations and {counts['tokens']} tokens equal, 0 mismatches (one would fail its "
            f"test); {refused} refused, {counts['differs on purpose']} different on purpose"
        )


TALLY = pytest.StashKey[ParityTally]()


def tally_of(config: pytest.Config) -> ParityTally:
    """Return the process's tally, made when first asked for."""
    return config.stash.setdefault(TALLY, ParityTally())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's counts to the process that prints."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[WORKER_KEY] = tally_of(session.config).compared


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in what a worker counted."""
    counted = getattr(node, "workeroutput", {}).get(WORKER_KEY, [])
    tally_of(node.config).compared.extend(tuple(entry) for entry in counted)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say the counts at the end, whatever was captured."""
    made = tally_of(config)
    if made.compared:
        terminalreporter.section("parity with chat templates")
        for line in (*sorted(made.lines), made.total):
            terminalreporter.write_line(line)
