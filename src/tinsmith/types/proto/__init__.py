"""The binary messages: `tinsmith.proto` and what the protobuf compiler makes of it."""

from tinsmith.types.proto import tinsmith_pb2

__all__ = ["tinsmith_pb2"]
