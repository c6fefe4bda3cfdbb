"""A folder of objects in a store: each is replaced whole or not at all, and nothing is taken from kept listings."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import IO, Any

from loradet.files import atomic_open
from loradet.remote.errors import MissingObjectError, RemoteError, explain
from loradet.remote.sources import open_store
from loradet.remote.urls import WEB, is_url, scheme_of

_BLOCK = 1 << 20
_PART = 16 << 20  # bytes of a part of an upload, which S3 takes at most 10,000 of


class RemoteFolder:
    """Objects under a URL, as `s3://bucket/runs/mine`, by their names relative to it.

    Args:
        url: of the folder; what fsspec can write.

    Raises:
        RemoteError: it is no such URL, or the package for its protocol is not installed.
    """

    def __init__(self, url: str):
        scheme = scheme_of(url)
        if scheme is None:
            raise RemoteError(f"{url!r} is no URL; expected one as s3://bucket/runs/mine.")
        if scheme in WEB or scheme == "hf":
            raise RemoteError(f"{url} cannot be written; expected a store as s3://bucket/runs/mine.")
        if not is_url(url):
            raise RemoteError(f"{url}: no protocol {scheme}:// is known; expected one as s3://bucket/runs/mine.")
        self.url = url.rstrip("/")
        self._store, self._root = open_store(self.url)
        if scheme == "s3" and "/" not in self._root.strip("/"):
            raise RemoteError(f"{url}: expected a name behind the bucket, as {self.url}/runs/mine.")

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object; a former one stays as it is until all of this one is there.

        Raises:
            RemoteError: it did not work; the former one, where there is one, is whole.
        """
        path = self._path(name)
        target: Any = None
        try:
            if self._has_keys and _size(content) < _PART:
                # One request, which such a store carries out or not.
                self._store.pipe_file(path, content if isinstance(content, bytes) else content.read_bytes())
                return
            if (parent := path.rpartition("/")[0]) and not self._has_keys:
                self._store.makedirs(parent, exist_ok=True)
            # Without a transaction s3fs commits, at the end of a block that has failed, what has come so far.
            with self._store.transaction, _opened(content) as source, self._open_new(path) as target:
                shutil.copyfileobj(source, target, _BLOCK)
        except Exception as error:
            if target is not None:
                with contextlib.suppress(Exception):  # of older fsspec; whatever was sent is worth nothing
                    target.discard()
            raise explain(error, f"{self.url}/{name}", "written") from error

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none.

        Raises:
            RemoteError: it cannot be read.
        """
        try:
            return self._store.cat_file(self._path(name))
        except Exception as error:
            explained = explain(error, f"{self.url}/{name}")
            if isinstance(explained, MissingObjectError):
                return None
            raise explained from error

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in an object; None where there is none, {} where it holds something else."""
        content = self.read(name)
        if content is None:
            return None
        try:
            value = json.loads(content)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def fetch(self, name: str, file: Path) -> bool:
        """Write an object to a file here, whole or not at all; False where there is none.

        Raises:
            RemoteError: it cannot be read.
            OSError: the file cannot be written.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_open(file, "wb") as target:
                self._copy(name, target)
        except MissingObjectError:
            return False
        return True

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where there is none.

        Raises:
            RemoteError: the server does not tell.
        """
        try:
            return self._info(name)["size"]
        except MissingObjectError:
            return None

    def remove(self, name: str) -> None:
        """Delete an object; nothing where there is none.

        Raises:
            RemoteError: it cannot be deleted.
        """
        try:
            self._store.rm_file(self._path(name))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise explain(error, f"{self.url}/{name}", "deleted") from error

    def _open_new(self, path: str) -> Any:
        return self._store.open(path, "wb", block_size=_PART)

    @property
    def _has_keys(self) -> bool:
        return scheme_of(self.url) in ("s3", "s3a", "gs", "gcs", "abfs", "az", "memory")

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _info(self, name: str) -> dict[str, Any]:
        try:
            self._store.invalidate_cache()
            info = self._store.info(self._path(name))
        except Exception as error:
            raise explain(error, f"{self.url}/{name}") from error
        if info.get("type") == "directory":
            raise MissingObjectError(f"{self.url}/{name}: there is no such object.")
        return info

    def _copy(self, name: str, target: IO[bytes]) -> None:
        written = 0
        try:
            with self._store.open(self._path(name), "rb") as source:
                while block := source.read(_BLOCK):
                    written += target.write(block)
                size = getattr(source, "size", None)
        except Exception as error:
            raise explain(error, f"{self.url}/{name}") from error
        if size not in (None, written):
            raise RemoteError(f"{self.url}/{name}: {written} of {size} bytes came.")


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _opened(content: bytes | Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
