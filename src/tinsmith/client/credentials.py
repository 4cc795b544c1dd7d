"""Where an API key comes from: an argument, a variable, a command, or the file of `auth login`.

The first that is there counts. Keys in the file belong to the address that they were stored for and
go nowhere else. The key of the Tinker SDK's own file is used where that SDK would use it: at the
address in `TINKER_BASE_URL`, and at its maker's. Main names: `find_credential`, `Credential`,
`StoredKey`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import stat
import subprocess
import time
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from tinsmith.client.jwt import is_expired
from tinsmith.client.loop import run_in_daemon_thread
from tinsmith.core import environment, jsonio, paths
from tinsmith.core.errors import ConfigError, UserError

logger = logging.getLogger(__name__)

Source = Literal["argument", "variable", "command", "file", "nowhere"]

COMMAND_TIMEOUT_S = 60.0
KEPT_S = 60.0
"""How long what a command printed is used; a refusal runs the command again before that."""
_OWNER_ONLY = 0o600
_TINKER_DOMAINS = ("thinkingmachines.dev", "thinkingmachines.ai")


@dataclasses.dataclass(frozen=True, slots=True)
class FoundCredential:
    """What the settings say about the key, before anything is run or sent."""

    key: str = dataclasses.field(default="", repr=False)
    """Empty where there is none, or where the command has to print it."""
    source: Source = "nowhere"


@dataclasses.dataclass(frozen=True, slots=True)
class StoredKey:
    """A key in the file, with what tells it from others."""

    key: str = dataclasses.field(repr=False)
    name: str = ""


class Credential(Protocol):
    """Gives the text that goes into `X-API-Key`; used on the SDK's loop."""

    async def token(self) -> str:
        """The text to send; empty sends no header."""
        ...

    async def renewed(self, rejected: str) -> str | None:
        """Another text after the service refused one; None where there is no other."""
        ...


class FixedKey:
    """A key that stays as it is."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def token(self) -> str:
        """The key.

        Raises:
            UserError: it is a JWT that has expired.
        """
        if is_expired(self._key):
            raise UserError(
                "api_key: this token (a JWT) has expired",
                field="api_key",
                hint="get a fresh one, or set TINSMITH_CREDENTIAL_CMD to a command that prints one",
            )
        return self._key

    async def renewed(self, rejected: str) -> str | None:
        """There is no other."""
        return None


class CommandKey:
    """What a shell command prints: run on first use, again after a while, and after a refusal."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._lock = asyncio.Lock()
        self._key = ""
        self._fresh_until_s = 0.0

    async def token(self) -> str:
        """What the command printed.

        Raises:
            UserError: it failed, or printed nothing or an expired token.
        """
        if self._is_fresh():
            return self._key
        async with self._lock:  # many requests, one run
            return self._key if self._is_fresh() else await self._run()

    async def renewed(self, rejected: str) -> str | None:
        """What the command prints now, if that is another key."""
        async with self._lock:
            key = self._key if self._key != rejected else await self._run()
        return None if key == rejected else key

    def _is_fresh(self) -> bool:
        return time.monotonic() < self._fresh_until_s and not is_expired(self._key)

    async def _run(self) -> str:
        key = await run_in_daemon_thread(lambda: _output_of(self._command))
        self._key, self._fresh_until_s = key, time.monotonic() + KEPT_S
        return key


def find_credential(base_url: str, api_key: str | None) -> FoundCredential:
    """The key for a service, without running or sending anything.

    Raises:
        ConfigError: the file of keys is damaged.
        UserError: the key is none that can be sent.
    """
    if api_key:
        return FoundCredential(_sendable(api_key, "the argument"), "argument")
    if key := environment.api_key():
        return FoundCredential(_sendable(key, "the environment variable"), "variable")
    if environment.credential_command() is not None:
        return FoundCredential("", "command")
    if stored := stored_key(base_url):
        return FoundCredential(stored.key, "file")
    return FoundCredential()


def is_sendable(key: object) -> bool:
    """Whether a header can carry this as a key: one line of plain text."""
    return isinstance(key, str) and key.isascii() and key.isprintable() and key == key.strip()


def _sendable(key: str, where: str) -> str:
    """The key, which appears in no message."""
    if not is_sendable(key):
        raise UserError(
            f"api_key: {where} is not one line of plain text without spaces around it",
            field="api_key",
            hint="look for a line end, a space or a quotation mark that came with the key",
        )
    return key


def credentials_file() -> Path:
    """The file of keys: `credentials.json` in the config directory."""
    return paths.config_dir() / "credentials.json"


def stored_key(base_url: str) -> StoredKey | None:
    """The key that is stored for an address.

    Raises:
        ConfigError: the file is damaged.
    """
    entry = _load().get(_place(base_url))
    return entry if entry is not None else _tinker_key(base_url)


def store_key(base_url: str, stored: StoredKey) -> None:
    """Keep a key for an address; only this user can read the file."""
    _save({**_load(), _place(base_url): stored})


def forget_key(base_url: str) -> bool:
    """Remove the key of an address from our own file; False when there was none."""
    keys = _load()
    if keys.pop(_place(base_url), None) is None:
        return False
    _save(keys)
    return True


def _place(base_url: str) -> str:
    """An address in one spelling: scheme and host know no case."""
    parts = urlsplit(base_url.rstrip("/"))
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl()


def _load() -> dict[str, StoredKey]:
    file = credentials_file()
    try:
        services = jsonio.loads(file.read_bytes())["services"]
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            logger.warning("%s can be read by others: chmod 600 it", file)
        return {
            str(place): StoredKey(str(entry["key"]), str(entry.get("name") or ""))
            for place, entry in cast("dict[str, Any]", services).items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file}: is no file of keys ({error})",
            field="credentials",
            hint="remove it and log in again: tinsmith auth login",
        ) from error


def _save(keys: dict[str, StoredKey]) -> None:
    file = credentials_file()
    if not file.parent.is_dir():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    services = {place: dataclasses.asdict(entry) for place, entry in sorted(keys.items())}
    text = jsonio.dumps({"version": 1, "services": services}, indent=2)
    paths.atomic_write_text(file, text + "\n", mode=_OWNER_ONLY)


def _tinker_key(base_url: str) -> StoredKey | None:
    """The default key of the Tinker SDK's file, where that SDK itself would send it."""
    host = (urlsplit(base_url).hostname or "").lower()
    is_makers = any(host == domain or host.endswith(f".{domain}") for domain in _TINKER_DOMAINS)
    if not is_makers and environment.tinker_base_url() != base_url.rstrip("/"):
        return None
    file = environment.tinker_credentials_file()
    try:
        saved = cast("dict[str, Any]", jsonio.loads(file.read_bytes()))
        entry = saved["keys"][saved["default"]]
        return StoredKey(str(entry["key"]), str(entry.get("name") or ""))
    except (OSError, KeyError):
        return None  # no file, or no default in it
    except (ValueError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read and is passed over: %s", file, error)
        return None


def _output_of(command: str) -> str:
    """What a command prints. Its output appears in no message: it may hold the key."""
    try:
        done = subprocess.run(  # the user's own command, from the user's own environment
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _command_error(f"did not end within {COMMAND_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise _command_error(f"ended with status {done.returncode}")
    key = done.stdout.decode(errors="replace").strip()
    if not key:
        raise _command_error("printed nothing")
    if not is_sendable(key):
        raise _command_error("printed something that is not one line of plain text")
    if is_expired(key):
        raise _command_error("printed a token that has expired")
    return key


def _command_error(what: str) -> UserError:
    return UserError(
        f"the credential command {what}",
        field="TINSMITH_CREDENTIAL_CMD",
        hint="run it in a shell: it has to print a key and nothing else",
    )
