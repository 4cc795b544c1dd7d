"""Unsent reports on disk: shared by processes, whole or not at all, bounded."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tinsmith.client import spool as module
from tinsmith.client.spool import Parcel, Spool

HEADER = {"session_id": "S", "process_uuid": "P"}
WRITER = """
import os, sys, pathlib
from tinsmith.client.spool import Parcel, Spool
spool = Spool(pathlib.Path(sys.argv[1]), "http://box")
for number in range(3):
    spool.write(Parcel({"session_id": "S", "process_uuid": "P"}, [{"event_id": f"dead-{number}"}]))
print("written", flush=True)
sys.stdin.read()
"""


def parcel(*ids: str) -> Parcel:
    return Parcel(HEADER, [{"event_id": name} for name in ids])


def ids_of(parcels: list[Parcel]) -> list[str]:
    return [event["event_id"] for each in parcels for event in each.events]


def adopted(spool: Spool) -> list[str]:
    """Adopt, send and delete what others left."""
    with spool.adopt() as parcels:
        for each in parcels:
            spool.remove(each)
        return ids_of(parcels)


def test_what_a_living_writer_wrote_is_its_own_and_what_it_left_is_anybodys(
    tmp_path: Path,
) -> None:
    first, second = (Spool(tmp_path, "http://box") for _ in range(2))
    first.write(parcel("a", "b"))
    assert adopted(second) == []
    first.close()
    assert adopted(second) == ["a", "b"]
    assert adopted(second) == []
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_two_adopters_never_have_the_same_parcel(tmp_path: Path) -> None:
    writer = Spool(tmp_path, "http://box")
    writer.write(parcel("a"))
    writer.close()
    first, second = (Spool(tmp_path, "http://box") for _ in range(2))
    with first.adopt() as mine:
        assert ids_of(mine) == ["a"]
        with second.adopt() as theirs:
            assert theirs == []
    with second.adopt() as theirs:
        assert ids_of(theirs) == ["a"], "what was not sent is there for the next"


def test_a_service_gets_no_other_services_reports(tmp_path: Path) -> None:
    writer = Spool(tmp_path, "http://box")
    writer.write(parcel("a"))
    writer.close()
    assert adopted(Spool(tmp_path, "http://other")) == []
    assert adopted(Spool(tmp_path, "http://box")) == ["a"]


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    spool = Spool(tmp_path, "http://box")
    assert adopted(spool) == [], "it is alive"
    process.kill()
    process.communicate()
    assert adopted(spool) == ["dead-0", "dead-1", "dead-2"]


def test_damaged_lines_and_files_cost_only_themselves(tmp_path: Path) -> None:
    writer = Spool(tmp_path, "http://box")
    for name in ("a", "b", "c"):
        writer.write(parcel(f"{name}0", f"{name}1"))
    writer.close()
    files = sorted(tmp_path.glob("*.jsonl"))
    lines = files[0].read_bytes().splitlines()
    files[0].write_bytes(b"\n".join([b'{"session', *lines[1:], b'{"event_id": "cut']))
    files[1].write_bytes(b"\xff\x00[1]\n3\n" + files[1].read_bytes()[:-5])
    with Spool(tmp_path, "http://box").adopt() as parcels:
        assert ids_of(parcels) == ["a0", "a1", "b0", "c0", "c1"]
        assert parcels[0].header["session_id"].startswith("sessionless-")


def test_the_directory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 400)
    spool = Spool(tmp_path, "http://box")
    parcels = [parcel(f"event-{number}") for number in range(20)]
    for each in parcels:
        spool.write(each)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) <= 400
    written = [each for each in parcels if each.path is not None]
    assert 0 < len(written) < 20
    spool.remove(written[0])
    again = parcel("again")
    spool.write(again)
    assert again.path is not None, "there is room once something was taken"


def test_old_parcels_are_thrown_away(tmp_path: Path) -> None:
    writer = Spool(tmp_path, "http://box")
    writer.write(parcel("old"))
    writer.close()
    old = next(tmp_path.glob("*.jsonl"))
    month_ago = time.time() - module.MAX_AGE_S - 60
    os.utime(old, (month_ago, month_ago))
    assert adopted(Spool(tmp_path, "http://box")) == []
    assert not old.exists()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new", "http://box")
    spool.write(parcel("a"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("broken", ["file instead of folder", "disk"])
def test_a_disk_that_does_not_take_it_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    place: Any = tmp_path / "place"
    if broken == "disk":

        def full(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.paths, "atomic_write_bytes", full)
    else:
        place.write_text("")
    spool = Spool(place, "http://box")
    unwritten = parcel("a")
    spool.write(unwritten)
    assert unwritten.path is None
    assert adopted(spool) == []
    spool.close()
