"""Archives that somebody else made: what is unpacked, and what is refused."""

import gzip
import io
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.client.archives import ArchiveLimits, extract_archive
from tinsmith.core.errors import DataError

LIMITS = ArchiveLimits(max_bytes=10_000, max_members=20)


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_of(
    *members: tuple[tarfile.TarInfo, bytes], tar_format: int = tarfile.PAX_FORMAT
) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return file


def files_in(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "target"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
)
def test_files_and_directories_are_unpacked(
    target: Path, tar_format: int, pack: Callable[[bytes], bytes]
) -> None:
    directory = member("./deep", b"", type=tarfile.DIRTYPE)
    made = tar_of(
        directory, member("./deep/a.txt", b"A" * 700), member("b", b""), tar_format=tar_format
    )
    assert extract_archive(io.BytesIO(pack(made.getvalue())), target, LIMITS) == 700
    assert files_in(target) == {"deep/a.txt": b"A" * 700, "b": b""}


def test_names_longer_than_a_header_are_read(target: Path) -> None:
    name = "/".join(["d" * 80] * 3)
    extract_archive(tar_of(member(name)), target, LIMITS)
    assert files_in(target) == {name: b"x"}


def test_permissions_and_times_are_ours(target: Path) -> None:
    extract_archive(tar_of(member("a", mode=0o6777, mtime=1)), target, LIMITS)
    stat = (target / "a").stat()
    assert stat.st_mode & 0o7111 == 0
    assert stat.st_mtime > 1


def outside(*_: object) -> io.BytesIO:
    return tar_of(member("../outside"))


HOSTILE = {
    "a path upwards": outside,
    "a path upwards inside": lambda: tar_of(member("a/../../outside")),
    "an absolute path": lambda: tar_of(member("/outside")),
    "an absolute path with two slashes": lambda: tar_of(member("//outside")),
    "a path of another system": lambda: tar_of(member("..\\outside")),
    "a drive": lambda: tar_of(member("C:/outside")),
    "a control character": lambda: tar_of(member("a\x1bb")),
    "no name": lambda: tar_of(member(".")),
    "a directory upwards": lambda: tar_of(member("../outside", b"", type=tarfile.DIRTYPE)),
    "a symbolic link": lambda: tar_of(
        member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    ),
    "a link to a directory, then a file in it": lambda: tar_of(
        member("link", b"", type=tarfile.SYMTYPE, linkname=".."), member("link/outside")
    ),
    "a hard link": lambda: tar_of(
        member("a"), member("b", b"", type=tarfile.LNKTYPE, linkname="a")
    ),
    "a device": lambda: tar_of(member("null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "a named pipe": lambda: tar_of(member("pipe", b"", type=tarfile.FIFOTYPE)),
    "a name twice": lambda: tar_of(member("a"), member("a", b"other")),
    "a file and a directory of one name": lambda: tar_of(member("a"), member("a/b")),
    "a directory over a file": lambda: tar_of(member("a"), member("a", b"", type=tarfile.DIRTYPE)),
    "too many bytes": lambda: tar_of(member("a", b"x" * 6000), member("b", b"x" * 6000)),
    "too many members": lambda: tar_of(*(member(f"m{number}") for number in range(21))),
    "too deep a path": lambda: tar_of(member("d/" * 40 + "a")),
    "a negative size": lambda: tar_of(member("a", pax_headers={"size": "-1024"})),
    "a size that is no number": lambda: tar_of(member("a", pax_headers={"size": "many"})),
    "a size that the archive has not": lambda: tar_of(member("a", pax_headers={"size": "9999"})),
    "a sparse file": lambda: tar_of(
        member("a", b"x", pax_headers={"GNU.sparse.size": "9999", "GNU.sparse.map": "0,1"})
    ),
    "a huge header": lambda: tar_of(member("a", pax_headers={"comment": "c" * 2**20})),
    "nothing": lambda: tar_of(),
    "no tar": lambda: io.BytesIO(b"<html>not found</html>" * 100),
    "no bytes": io.BytesIO,
    "damaged gzip": lambda: io.BytesIO(gzip.compress(tar_of(member("a")).getvalue())[:-30]),
    "damage at the second header": lambda: io.BytesIO(
        tar_of(member("a"), member("b")).getvalue()[:1024] + b"\x07" * 2048
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_lies_outside(target: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"^archive: ") as caught:
        extract_archive(HOSTILE[name](), target, LIMITS)
    assert len(str(caught.value).splitlines()) == 1
    assert list(target.parent.iterdir()) == [target]
    assert not any(path.is_symlink() for path in target.rglob("*"))


@pytest.mark.parametrize("end", [100, 512, 700, 1024, 1500])
def test_an_archive_that_is_cut_off_is_refused_wherever_it_ends(target: Path, end: int) -> None:
    whole = tar_of(member("a", b"x" * 600), member("b")).getvalue()
    with pytest.raises(DataError):
        extract_archive(io.BytesIO(whole[:end]), target, LIMITS)


def test_a_bomb_is_refused_before_it_goes_off(target: Path) -> None:
    bomb = io.BytesIO()
    with gzip.open(bomb, "wb") as packed:
        header = tarfile.TarInfo("zeros")
        header.size = 2**33
        packed.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            packed.write(bytes(2**20))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="more than 10,000 bytes"):
        extract_archive(bomb, target, LIMITS)
    assert files_in(target) == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 20_000


@given(place=st.integers(0, 4000), byte=st.integers(0, 255))
def test_whatever_byte_is_changed_the_answer_is_files_inside_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    target = tmp_path_factory.mktemp("fuzz") / "target"
    target.mkdir()
    content = bytearray(tar_of(member("a/b", b"x" * 600), member("c")).getvalue())
    content[place] = byte
    try:
        extract_archive(io.BytesIO(bytes(content)), target, LIMITS)
    except DataError:
        pass
    assert list(target.parent.iterdir()) == [target]
