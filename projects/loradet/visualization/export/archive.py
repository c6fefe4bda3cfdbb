"""A folder as one zip file whose bytes depend on the folder's content alone."""

import os
import shutil
import zipfile
from pathlib import Path

from loradet.files import atomic_open, sha256

SUMS = "SHA256SUMS"
_BLOCK = 1 << 20


def write_archive(folder: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Pack all files of a folder, by sorted name and without times, and `SHA256SUMS` over them.

    `<target>.sha256` is written beside the zip file; `sha256sum -c` understands both.

    Args:
        folder: its name becomes the one folder in the zip file.
        target: the zip file, written whole or not at all.
    """
    folder, target = Path(folder), Path(target)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    sums = "".join(f"{sha256(path)}  {name}\n" for path, name in zip(files, names))
    root = folder.resolve().name
    with atomic_open(target, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for path, name in zip(files, names):
            entry = _entry(f"{root}/{name}", path.stat().st_size)
            with path.open("rb") as source, archive.open(entry, "w") as place:
                shutil.copyfileobj(source, place, _BLOCK)
        archive.writestr(_entry(f"{root}/{SUMS}", len(sums)), sums)
    with atomic_open(checksum_file(target)) as file:
        file.write(f"{sha256(target)}  {target.name}\n")
    return target


def checksum_file(archive: Path) -> Path:
    """The file beside a zip file that holds its sha256."""
    return archive.with_name(archive.name + ".sha256")


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix, wherever it is written
    entry.external_attr = 0o644 << 16
    entry.file_size = size
    # PNGs are compressed already.
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    return entry
