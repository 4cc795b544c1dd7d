"""A sampling client as data, to be taken up again in another process.

A handle is a short text without the API key, in the form that the Tinker SDK uses. Main names:
`SamplerState`, `joined_connection`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
import threading
import weakref
from typing import Any, cast

from tinsmith.client import launcher
from tinsmith.client.connection import Connection
from tinsmith.client.credentials import find_credential
from tinsmith.client.settings import ConnectionSettings
from tinsmith.core import environment, jsonio, paths
from tinsmith.core.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class SamplerState:
    """What another process needs to go on sampling from the same weights."""

    settings: ConnectionSettings
    """With the address, the key and the session of the process that made the client."""
    sampling_session_id: str
    base_model: str
    record_stability_info: bool = False

    def handle(self) -> str:
        """This as a text, without the API key."""
        state = {
            "session_id": self.settings.session_id,
            "sampling_session_id": self.sampling_session_id,
            "base_model": self.base_model,
            "record_stability_info": self.record_stability_info,
            "holder": {
                "base_url": self.settings.base_url,
                "default_headers_overrides": dict(self.settings.headers),
                "client_config": {},
                "client_dynamic_config": {},
                "api_key": None,
            },
        }
        return base64.urlsafe_b64encode(jsonio.dumps(state).encode()).decode()

    @classmethod
    def from_handle(cls, handle: str, api_key: str | None) -> SamplerState:
        """Read a handle.

        Args:
            handle: of `SamplingClient.get_sampler_handle`.
            api_key: None takes that of the environment; the embedded service's is found.

        Raises:
            UserError: it is not a handle.
        """
        try:
            state = jsonio.loads(base64.urlsafe_b64decode(handle.encode()))
            return _read(cast("dict[str, Any]", state), api_key)  # Any: read in the next line
        except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
            raise UserError(
                f"handle={str(handle)[:40]!r}: not the handle of a sampling client",
                field="handle",
                hint="SamplingClient.get_sampler_handle() makes one",
            ) from error


def _read(state: dict[str, Any], api_key: str | None) -> SamplerState:
    holder = state["holder"]
    base_url = str(holder["base_url"])
    key = (
        api_key
        or environment.api_key()
        or launcher.key_of(base_url, paths.state_dir())
        or find_credential(base_url, None).key
    )
    return SamplerState(
        ConnectionSettings(
            base_url=base_url,
            api_key=key,
            credential_command=environment.credential_command(),
            headers=dict(holder.get("default_headers_overrides") or {}),
            session_id=str(state["session_id"]),
        ),
        sampling_session_id=str(state["sampling_session_id"]),
        base_model=str(state["base_model"]),
        record_stability_info=bool(state.get("record_stability_info")),
    )


_joined: weakref.WeakValueDictionary[tuple[int, str], Connection] = weakref.WeakValueDictionary()
_joined_lock = threading.Lock()


def joined_connection(settings: ConnectionSettings) -> Connection:
    """This process's connection to another one's session; shared, for one heartbeat is enough."""
    key = (os.getpid(), repr(settings) + settings.api_key)
    with _joined_lock:
        connection = _joined.get(key)
        if connection is None:
            connection = _joined[key] = Connection(settings)
        return connection
