"""Sessions: signs of life, the end, and when the service may go home."""

from __future__ import annotations

import asyncio

import pytest

from tinsmith.server.config import ServerLimits
from tinsmith.server.errors import GoneError, MissingError
from tinsmith.server.sessions import SessionRegistry
from tinsmith.server.store import MemoryStore


def make_sessions(
    *, idle_exit_s: float | None = None, **limits: float
) -> tuple[SessionRegistry, list[str], asyncio.Event]:
    ended: list[str] = []
    idle = asyncio.Event()
    sessions = SessionRegistry(
        MemoryStore(),
        ServerLimits.model_validate(limits),
        on_end=ended.append,
        idle_exit_s=idle_exit_s,
        on_idle=idle.set,
    )
    return sessions, ended, idle


async def test_a_finished_session_is_gone_and_the_first_reason_wins() -> None:
    sessions, ended, _ = make_sessions()
    session_id = sessions.open([], {}).session_id
    sessions.finish(session_id, "success")
    sessions.finish(session_id, "errored")
    assert ended == [session_id]
    with pytest.raises(GoneError, match="finished \\(success\\)"):
        sessions.touch(session_id)
    with pytest.raises(MissingError):
        sessions.finish("never", "success")


async def test_the_service_goes_idle_without_any_session() -> None:
    _, _, idle = make_sessions(idle_exit_s=0.03)
    await asyncio.wait_for(idle.wait(), 1.0)


async def test_heartbeats_keep_the_service_and_their_end_lets_it_go() -> None:
    sessions, _, idle = make_sessions(idle_exit_s=0.04, session_timeout_s=0.04)
    session_id = sessions.open([], {}).session_id
    for _ in range(8):
        await asyncio.sleep(0.02)
        sessions.touch(session_id)
    assert not idle.is_set()
    await asyncio.wait_for(idle.wait(), 1.0)


async def test_a_finished_session_starts_the_idle_time() -> None:
    sessions, _, idle = make_sessions(idle_exit_s=0.03)
    sessions.finish(sessions.open([], {}).session_id, "success")
    await asyncio.wait_for(idle.wait(), 1.0)


async def test_a_long_silent_session_is_released() -> None:
    sessions, ended, _ = make_sessions(session_release_s=0.04)
    silent = sessions.open([], {}).session_id
    lively = sessions.open([], {}).session_id
    for _ in range(5):
        await asyncio.sleep(0.02)
        sessions.touch(lively)
    assert ended == [silent]
    sessions.close()
