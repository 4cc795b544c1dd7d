"""What the service remembers beyond its own life, in SQLite or PostgreSQL.

`tables` is the schema and `migrations` how it came to be, `database` opens one, `store` is the
single thread that writes and reads, `queries` are the questions that the service asks, `writes` is
all that most of it needs to know, and `boots` tells processes that live from those that died.
Weights are no part of it: they lie in directories below the state directory.
"""

from tinsmith.server.metadata.store import MetadataStore
from tinsmith.server.metadata.writes import MetadataWrites, NullWrites

__all__ = ["MetadataStore", "MetadataWrites", "NullWrites"]
