"""A disk that is full, or a folder that is read only, from the moment on that a certain file is written."""

import os
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any

KINDS = ("file size limit", "full file system", "read-only folder")


def install(kind: str, name: str, folder: Path) -> None:
    """Let the fault begin when a file of that name is opened to be replaced, or has been appended to a few times.

    Args:
        kind: "file size limit": no file grows any more, as on a full disk, and as any user may have it;
            "full file system": what is left of a small one is filled; "read-only folder": no file is made.
        name: of the file.
        folder: of the run.
    """
    begun: list[str] = []
    appended: list[str] = []

    def begin() -> None:
        if not begun:
            begun.append(kind)
            _begin(kind, folder)

    mkstemp, fsync = tempfile.mkstemp, os.fsync

    def opening(*args: Any, **kwargs: Any) -> tuple[int, str]:
        if kwargs.get("prefix") == f".{name}.":
            begin()
        return mkstemp(*args, **kwargs)

    def appending(file: int) -> None:
        fsync(file)
        if Path(f"/proc/self/fd/{file}").readlink().name == name:
            appended.append(name)
            if len(appended) == 3:  # what comes next is the next line
                begin()

    tempfile.mkstemp, os.fsync = opening, appending


def _begin(kind: str, folder: Path) -> None:
    if kind == "file size limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    elif kind == "full file system":
        with (folder.parent / "filler").open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
    else:
        for one in (folder, *folder.glob("predictions/*")):
            lock_folder(one)


def lock_folder(folder: Path) -> bool:
    """Let nobody make files in a folder, root neither; False where the system has no means for that."""
    if os.geteuid():
        folder.chmod(0o555)
        return True
    return _chattr("+i", folder)


def unlock_folder(folder: Path) -> None:
    """Counterpart of `lock_folder`."""
    folder.chmod(0o755) if os.geteuid() else _chattr("-i", folder)


def _chattr(flag: str, folder: Path) -> bool:
    try:
        return subprocess.run(["chattr", flag, str(folder)], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def mount_small(folder: Path, megabytes: int) -> bool:
    """Mount a file system in memory on a folder; False where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def mount_full(folder: Path) -> bool:
    """Mount one that is full but for a few kB."""
    if not mount_small(folder, 1):
        return False
    (folder / "filler").write_bytes(bytes((1 << 20) - (1 << 13)))
    return True


def unmount(folder: Path) -> None:
    """Counterpart of `mount_small`."""
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)
