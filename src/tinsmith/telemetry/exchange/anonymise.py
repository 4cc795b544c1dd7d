"""What leaves a bundle when a run is shared with people who must not know who made it.

Numbers, steps, units, names of metrics and of events stay; they are what is shared. Beyond them:

- run and group ids, projects, names, tags, ids of events and traces: replaced by keyed hashes, so
  that what was equal stays equal and nothing can be read back;
- host, process ids, command line, git state, hypothesis, texts, addresses of artifacts: removed;
- texts in config and metadata: replaced by keyed hashes; numbers and truth values stay;
- texts of alerts: removed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tinsmith.core.errors import ConfigError
from tinsmith.telemetry.exchange.bundle import RunBundle
from tinsmith.telemetry.model import Event, Json

__all__ = ["Anonymiser"]

_HASH_CHARS = 16
_MIN_KEY_CHARS = 8


@dataclass(frozen=True, slots=True)
class Anonymiser:
    """Replaces what names people, machines and texts.

    The same key gives the same hashes, so that runs exported one by one still fit together. Keep it
    secret: whoever has it can try names until one fits.

    Raises:
        ConfigError: a key of fewer than 8 characters.
    """

    key: str

    def __post_init__(self) -> None:
        if len(self.key) < _MIN_KEY_CHARS:
            raise ConfigError(
                f"anonymisation key of {len(self.key)} characters; must be at least"
                f" {_MIN_KEY_CHARS}",
                hint='python -c "import secrets; print(secrets.token_hex())" makes one',
            )

    def hashed(self, text: str, *, chars: int = _HASH_CHARS) -> str:
        """Return the keyed hash of a text."""
        content = text.encode("utf-8", "surrogatepass")
        return hmac.new(self.key.encode(), content, hashlib.sha256).hexdigest()[:chars]

    def __call__(self, bundle: RunBundle) -> RunBundle:
        """Return the bundle without names."""
        record = bundle.record
        return replace(
            bundle,
            record=replace(
                record,
                run_id=self.hashed(record.run_id),
                project=self.hashed(record.project),
                name=self.hashed(record.name),
                group=self._maybe(record.group),
                parent_run=self._maybe(record.parent_run),
                tags=tuple(self.hashed(tag) for tag in record.tags),
                hypothesis=None,
                git=None,
                command=(),
                config=self._mapping(record.config),
                metadata=self._mapping(record.metadata),
            ),
            attempts=tuple(
                replace(attempt, pid=0, host="", process_start="") for attempt in bundle.attempts
            ),
            keys=tuple(replace(info, description=None) for info in bundle.keys),
            events=tuple(self._event(event) for event in bundle.events),
            samples=(),
            artifacts=tuple(
                replace(
                    artifact,
                    digest=self.hashed(artifact.digest),
                    name=self.hashed(artifact.name),
                    uri="",
                    metadata=self._mapping(artifact.metadata),
                )
                for artifact in bundle.artifacts
            ),
            alerts=tuple(
                replace(
                    alert,
                    alert_id=self.hashed(alert.alert_id),
                    message="",
                    metadata=self._mapping(alert.metadata),
                )
                for alert in bundle.alerts
            ),
            skipped={"samples": len(bundle.samples)} if bundle.samples else {},
        )

    def _event(self, event: Event) -> Event:
        return replace(
            event,
            event_id=self.hashed(event.event_id),
            trace_id=None if event.trace_id is None else self.hashed(event.trace_id, chars=32),
            span_id=self._maybe(event.span_id),
            parent_id=self._maybe(event.parent_id),
            metadata=self._mapping(event.metadata),
        )

    def _maybe(self, text: str | None) -> str | None:
        return None if text is None else self.hashed(text)

    def _mapping(self, mapping: Mapping[str, Json]) -> dict[str, Json]:
        return {name: self._value(value) for name, value in mapping.items()}

    def _value(self, value: Json) -> Json:
        if isinstance(value, str):
            return self.hashed(value)
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, Sequence):
            return [self._value(item) for item in value]
        return value
