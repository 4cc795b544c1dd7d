"""Which process this is, and whether another one still lives."""

import subprocess
import sys
from pathlib import Path

import pytest

from tinsmith.telemetry.processes import is_process_alive, this_writer

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")


def test_this_process_lives() -> None:
    assert is_process_alive(this_writer(0)) is True
    assert is_process_alive(this_writer(0)._replace(process_start="")) is True


@needs_proc
def test_a_process_with_the_same_pid_that_began_at_another_time_is_another() -> None:
    assert is_process_alive(this_writer(0)._replace(process_start="1")) is False


def test_an_ended_process_is_dead_also_before_its_parent_collects_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    writer = this_writer(0)._replace(pid=child.pid, process_start="7")
    child.communicate(b"\n", timeout=60)
    assert is_process_alive(writer) is False
    assert is_process_alive(writer._replace(process_start="")) is False


def test_of_another_machine_nothing_is_known() -> None:
    assert is_process_alive(this_writer(0)._replace(host="elsewhere.example")) is None
