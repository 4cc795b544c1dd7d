"""The table of older releases; the runs need the network and are not part of the tests."""

from __future__ import annotations

from tools.client_releases.__main__ import END, PAGE, RELEASES, START, table

STEPS = ("create", "train", "save", "load", "sample", "list_runs")


def test_the_table_says_yes_only_where_a_step_ended_well_and_why_not_elsewhere() -> None:
    good = dict.fromkeys(STEPS, "ok")
    text = table({"1.0": good, "0.1": good | {"sample": "ValueError: no ids"}})
    lines = text.splitlines()
    assert lines[2] == "| 1.0 | yes | yes | yes | yes | yes | yes |"
    assert lines[3] == "| 0.1 | yes | yes | yes | yes | no | yes |"
    assert "0.1 ends in `ValueError: no ids`." in text


def test_the_page_has_a_row_for_every_release() -> None:
    page = PAGE.read_text(encoding="utf-8")
    written = page.partition(START)[2].partition(END)[0]
    assert [release for release in RELEASES if f"| {release} |" not in written] == []
