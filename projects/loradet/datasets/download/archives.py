"""ZIP archives of one folder: checked member by member, unpacked whole or not at all."""

import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loradet.datasets.download.http import require_space

_CHUNK = 1 << 20


def check_archive(archive: Path, folder: str, *, needed: tuple[str, ...] = (), progress: bool = False) -> None:
    """Read an archive through and compare every member's CRC.

    Args:
        folder: name of the one folder at its top.
        needed: files that it must hold, as "folder/name".

    Raises:
        ValueError: no ZIP archive, a damaged or unsafe member, or other content; names archive and member.
    """
    with _opened(archive) as file:
        members = _members(file, archive, folder)
        for name in needed:
            if name not in members:
                raise ValueError(f"{archive} is another archive than expected: it has no {name}.")
        for info in _walk(members, f"checking {archive.name}", progress):
            with _readable(archive, info), file.open(info) as source:
                while source.read(_CHUNK):
                    pass


def missing_members(archive: Path, root: Path, folder: str) -> list[str]:
    """Files of an archive that are not below `root`, or have another size there.

    Raises:
        ValueError: as `check_archive`, but for damaged members.
    """
    with _opened(archive) as file:
        members = _members(file, archive, folder)
    return [name for name, info in members.items() if _size(root / name) != info.file_size]


def extract(archive: Path, root: Path, folder: str, *, progress: bool = False) -> Path:
    """Unpack an archive into `root / folder`.

    It is unpacked into a hidden folder beside, which gets its name when all is there. What an interrupted call left
    is continued.

    Raises:
        FileExistsError: the folder is there already.
        ValueError: as `check_archive`.
        OSError: not enough room on the disk.
    """
    target, temporary = root / folder, root / f".{folder}.partial"
    if target.exists():
        raise FileExistsError(f"{target} is there already and is not overwritten.")
    with _opened(archive) as file:
        members = _members(file, archive, folder)
        places = {name: temporary / name.partition("/")[2] for name in members}
        if any(path not in places.values() for path in _files(temporary)):
            shutil.rmtree(temporary)  # of another archive
        require_space(root, sum(i.file_size for i in members.values()) - _bytes(temporary), f"Unpacking {archive}")
        temporary.mkdir(exist_ok=True)
        for info in _walk(members, f"unpacking {archive.name}", progress):
            place = places[info.filename]
            if _size(place) == info.file_size and _crc(place) == info.CRC:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with _readable(archive, info), file.open(info) as source, place.open("wb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK)
    temporary.rename(target)
    return target


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        file = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{archive} ({archive.stat().st_size:,} bytes) is not a whole ZIP archive: {error}."
        ) from error
    with file:
        yield file


@contextmanager
def _readable(archive: Path, info: zipfile.ZipInfo) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{archive} is damaged at {info.filename!r}: {error}.") from error


def _members(file: zipfile.ZipFile, archive: Path, folder: str) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name, in its order.

    Raises:
        ValueError: a member that may not be unpacked; nothing of such an archive is.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        fault = _fault(info, folder)
        if fault or info.filename in members:
            raise ValueError(f"{archive}: member {info.orig_filename!r} {fault or 'is there twice'}; nothing unpacked.")
        if not info.is_dir():
            members[info.filename] = info
    if not members:
        raise ValueError(f"{archive} holds no files; expected them in {folder}/.")
    return members


def _fault(info: zipfile.ZipInfo, folder: str) -> str | None:
    """Why a member may not be unpacked."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in parts or "\\" in name:
        return "leads out of its folder"
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is no ordinary file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if "\0" in name or "" in parts or "." in parts:
        return "has a path that is not plain"
    if parts[0] != folder or (len(parts) == 1 and not info.is_dir()):
        return f"is not in the folder {folder}/ that was expected"
    return None


def _walk(members: dict[str, zipfile.ZipInfo], title: str, progress: bool) -> Iterator[zipfile.ZipInfo]:
    from tqdm import tqdm

    rare = 0.2 if sys.stderr.isatty() else 30.0
    size = sum(info.file_size for info in members.values())
    with tqdm(desc=title, total=size, unit="B", unit_scale=True, mininterval=rare, disable=not progress) as bar:
        for info in members.values():
            yield info
            bar.update(info.file_size)


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            crc = zlib.crc32(block, crc)
    return crc
