"""What operational commands show: times, sizes, and text that somebody else wrote."""

from datetime import UTC, datetime, timedelta

import pytest

from tinsmith.cli.tables import print_properties, print_table, relative_time, safe_text, size_text

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 minute ago"),
        (timedelta(minutes=59, seconds=59), "59 minutes ago"),
        (timedelta(hours=1), "1 hour ago"),
        (timedelta(days=6, hours=23), "6 days ago"),
        (timedelta(days=7), "1 week ago"),
        (timedelta(days=30), "4 weeks ago"),
        (timedelta(days=30, seconds=1), "2026-10-22"),
        (-timedelta(seconds=5), "within a minute"),
        (-timedelta(hours=2), "in 2 hours"),
        (-timedelta(days=31), "2026-12-22"),
    ],
)
def test_times_are_said_as_people_say_them(age: timedelta, text: str) -> None:
    assert relative_time(NOW - age, NOW) == text


def test_a_time_without_a_zone_is_utc_and_no_time_is_a_dash() -> None:
    assert relative_time(NOW.replace(tzinfo=None, hour=9), NOW) == "3 hours ago"
    assert relative_time(None) == "-"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3 * 3 // 2, "1.5 GiB"),
        (1024**5, "1.0 PiB"),
    ],
)
def test_sizes_go_in_steps_of_1024_with_one_decimal(num_bytes: int | None, text: str) -> None:
    assert size_text(num_bytes) == text


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    assert safe_text("a\x1b[31m\nü") == "a\\x1b[31m\\nü"


def test_a_table_that_is_read_by_a_program_folds_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table("1 thing", ("Name", "Path"), [("[red]x", "p" * 300)])
    shown = capsys.readouterr().out
    assert "p" * 300 in shown
    assert "[red]x" in shown


def test_a_table_of_nothing_is_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("0 things", ("Name",), [])
    assert capsys.readouterr().out == "0 things\n"


def test_properties_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    print_properties([("a", "1"), ("long", "x\x1b")])
    assert capsys.readouterr().out == "a     1\nlong  x\\x1b\n"
