"""Generate the protobuf module: `python -m tools.generate_proto` (needs the dev extra).

The compiler stamps its output with its own version and refuses older runtimes. What it writes for
this file uses only what every runtime since 4.21 has, so the stamp is taken out: pinning
everybody's protobuf to the newest release would clash with other packages for nothing.
"""

import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src"
PROTO = "tinsmith/types/proto/tinsmith.proto"

_IMPORT = "from google.protobuf import runtime_version as _runtime_version\n"
_CHECK = re.compile(r"_runtime_version\.ValidateProtobufRuntimeVersion\(\n(?:    .*\n)*\)\n")
_NOTE = re.compile(r"# NO CHECKED-IN PROTOBUF GENCODE\n")


def without_version_check(code: str) -> str:
    """Return generated code without the test of the runtime's version."""
    code, num_checks = _CHECK.subn("", code.replace(_IMPORT, ""))
    if num_checks != 1 or "_runtime_version" in code:
        raise SystemExit("generate_proto: the compiler writes its version check differently now")
    return _NOTE.sub("", code)


def generate() -> None:
    """Run the compiler and rewrite its output in place."""
    command = ["-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--pyi_out=.", PROTO]
    subprocess.run([sys.executable, *command], cwd=SOURCES, check=True)
    module = (SOURCES / PROTO).with_name("tinsmith_pb2.py")
    module.write_text(without_version_check(module.read_text()))


if __name__ == "__main__":
    generate()
