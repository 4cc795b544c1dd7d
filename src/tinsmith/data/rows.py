"""Rows of a data file: checked once when it is opened, read when they are asked for.

Only places and fingerprints are kept in memory, 48 bytes a row, so a file may be larger than
memory. `open_rows` opens JSON lines or Parquet; `StoredRows.spool` takes any JSON values; `View` is
a selection of rows that copies nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar, overload

from tinsmith.core.errors import DataError, missing_extra

DIGEST_BYTES = 16
_PARQUET_BATCH_ROWS = 256
_BOM = b"\xef\xbb\xbf"


class RowProblem(Exception):
    """What is wrong with a row and what to do; becomes a `DataError` that knows the place."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure


class Identified(Protocol):
    """A row that can be told from others."""

    def fingerprint(self) -> bytes:
        """`DIGEST_BYTES` bytes, the same for equal rows in every process."""
        ...


Row = TypeVar("Row", bound=Identified)
RowParser = Callable[[Any, str, int], Row]
"""Makes a row of a JSON value, the file's name and the line, or raises `RowProblem`."""


def digest(value: Any) -> bytes:
    """Fingerprint of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:DIGEST_BYTES]


def json_kind(value: Any) -> str:
    """What JSON calls a value's type."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


class StoredRows(Sequence[Row]):
    """Rows of JSON lines in an open file.

    Reading a row does not move the file's position, so that threads may read at once, and goes on
    when the file is replaced under its name.

    Attributes:
        name: What errors call the file.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        parse: RowParser[Row],
        problems: list[DataError] | None = None,
    ) -> None:
        self.name = name
        self._problems = problems
        self._file = file
        self._parse = parse
        self._starts = array("q")
        self._sizes = array("q")
        self._lines = array("q")
        self._digests = bytearray()
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return View(self, range(*index.indices(len(self))))
        start, size, line = self._starts[index], self._sizes[index], self._lines[index]
        return self._row(os.pread(self._file.fileno(), size, start), line)

    @property
    def digests(self) -> list[bytes]:
        """Fingerprints of all rows, in order."""
        starts = range(0, len(self._digests), DIGEST_BYTES)
        return [bytes(self._digests[start : start + DIGEST_BYTES]) for start in starts]

    @classmethod
    def from_jsonl(
        cls, path: Path, parse: RowParser[Row], problems: list[DataError] | None = None
    ) -> StoredRows[Row]:
        """Check every line of a UTF-8 file; blank lines are skipped.

        Args:
            path: The file.
            parse: Makes a row of a JSON value.
            problems: Receives what is wrong with rows, which are then left out; none raises.

        Raises:
            DataError: `path:line: what is wrong`, with the cure.
        """
        file = _open(path)
        rows = cls(file, str(path), parse, problems)
        start = 0
        for line, raw in enumerate(file, start=1):
            content = raw.removeprefix(_BOM) if line == 1 else raw
            if content.strip():
                rows._add(content.rstrip(b"\n"), start + len(raw) - len(content), line)
            start += len(raw)
        return rows

    @classmethod
    def spool(
        cls,
        values: Iterable[Any],
        name: str,
        parse: RowParser[Row],
        problems: list[DataError] | None = None,
    ) -> StoredRows[Row]:
        """Check JSON values and keep them in a temporary file, which goes with the rows.

        `problems` is as in `from_jsonl`.

        Raises:
            DataError: `name:row: what is wrong`, with the cure; rows count from 1.
        """
        file = tempfile.TemporaryFile(prefix="tinsmith-rows-")  # noqa: SIM115 - the rows keep it open
        rows = cls(file, name, parse, problems)
        start = 0
        for number, value in enumerate(values, start=1):
            try:
                raw = json.dumps(value).encode()
            except (TypeError, ValueError) as error:
                raise row_error(
                    name, number, f"not JSON: {error}", "use text and numbers"
                ) from error
            file.write(raw)
            rows._add(raw, start, number)
            start += len(raw)
        file.flush()
        return rows

    def _add(self, raw: bytes, start: int, line: int) -> None:
        try:
            row = self._row(raw, line)
        except DataError as error:
            if self._problems is None:
                raise
            self._problems.append(error)
            return
        self._starts.append(start)
        self._sizes.append(len(raw))
        self._lines.append(line)
        self._digests += row.fingerprint()

    def _row(self, raw: bytes, line: int) -> Row:
        return read_row(raw, self.name, line, self._parse)


class View(Sequence[Row], Generic[Row]):
    """Some rows of another sequence, in an order of their own."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int]) -> None:
        self.rows = rows
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return View(self.rows, self.indices[index])
        return self.rows[self.indices[index]]


def fingerprints(rows: Sequence[Row]) -> list[bytes]:
    """Fingerprints of all rows; those of a file are known already."""
    if isinstance(rows, StoredRows):
        return rows.digests
    if isinstance(rows, View):
        known = fingerprints(rows.rows)
        return [known[index] for index in rows.indices]
    return [row.fingerprint() for row in rows]


def content_sha256(rows: Sequence[Any]) -> str:
    """Hash of what rows say, in their order, wherever they are stored."""
    return hashlib.sha256(b"".join(fingerprints(rows))).hexdigest()


def open_rows(
    path: str | Path,
    parse: RowParser[Row],
    columns: Sequence[str],
    problems: list[DataError] | None = None,
) -> StoredRows[Row]:
    """Open a file by its suffix: Parquet for `.parquet`, JSON lines otherwise.

    Args:
        path: The file.
        parse: Makes a row of a JSON value.
        columns: What `parse` looks at; other columns of a Parquet file are not read.
        problems: Receives what is wrong with rows, which are then left out; none raises.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return StoredRows.spool(_parquet_values(path, columns), str(path), parse, problems)
    return StoredRows.from_jsonl(path, parse, problems)


def without_nulls(value: Any) -> Any:
    """A value without the keys that a table adds: a struct has every key of its column.

    `content` stays, since null is one of its values.
    """
    if isinstance(value, Mapping):
        return {
            key: without_nulls(item)
            for key, item in value.items()
            if item is not None or key == "content"
        }
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def read_row(raw: bytes, name: str, line: int, parse: Callable[[Any, str, int], Any]) -> Any:
    """One row by itself.

    Args:
        raw: JSON in UTF-8, perhaps with a byte-order mark.
        name: What errors call the file.
        line: Its line there, counted from 1.
        parse: Makes a row of a JSON value.

    Raises:
        DataError: `name:line: what is wrong`, with the cure.
    """
    try:
        return parse(_read_json(raw.removeprefix(_BOM)), name, line)
    except RowProblem as problem:
        raise row_error(name, line, problem.what, problem.cure) from None


def row_error(name: str, line: int, what: str, cure: str | None) -> DataError:
    """The error for a row: `name:line: what`."""
    return DataError(f"{name}:{line}: {what}", field="data", file=name, line=line, hint=cure)


def _parquet_values(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "data") from error
    with _open(path) as file:
        try:
            table = parquet.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise _damaged(path, "not a Parquet file", error) from error
        wanted = [name for name in table.schema_arrow.names if name in columns] or None
        batches = table.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=wanted)
        num_rows = 0
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, f"damaged after row {num_rows}", error) from error
            if batch is None:
                return
            num_rows += len(batch)
            for value in batch.to_pylist():
                yield without_nulls(value)


def _damaged(path: Path, what: str, error: Exception) -> DataError:
    return DataError(
        f"{path}: {what}: {error}", field="data", file=str(path), hint="check what wrote it"
    )


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(
            f"{path}: {problem}", field="data", file=str(path), hint="check the path"
        ) from error


def _read_json(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise RowProblem(f"byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RowProblem(
            f"not JSON: {error.msg} at column {error.colno}", "write one JSON object a line"
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number too long
        raise RowProblem(f"not readable as JSON: {error}", "write one JSON object a line") from None
