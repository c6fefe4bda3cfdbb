"""What a URL holds now, and its bytes: over the web by Python's own client, elsewhere by fsspec."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loradet.remote.errors import MissingObjectError, RemoteError, UnreachableError, explain
from loradet.remote.urls import WEB, scheme_of, shown

_TIMEOUT_S = 30.0
_BLOCK = 1 << 20
_TRIES = 3
# Entries of fsspec's `info` that change with the content, by service.
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "VersionId", "sha256", "checksum")
_TIME_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created", "timeModified")


@dataclass(frozen=True)
class Version:
    """What tells one content of a URL from another.

    Attributes:
        mark: equal for the same content; None: the server says nothing of it.
        size: bytes; None: not known.
    """

    mark: str | None
    size: int | None


class Source(Protocol):
    """A file at a URL that is open for a look."""

    version: Version

    def write_to(self, file: Path) -> Version:
        """Write the content to a file; returns the version that was written."""


@contextmanager
def open_source(url: str) -> Iterator[Source]:
    """Ask what a URL holds now.

    Raises:
        UnreachableError: the server does not answer.
        RemoteError: there is no such file, or no right to read it, or the protocol is not known here.
    """
    if scheme_of(url) not in WEB:
        yield _StoredSource(url)
        return
    request = urllib.request.Request(url, headers={"User-Agent": "loradet", "Accept-Encoding": "identity"})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            raise _of_status(error, shown(url)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        problem = f"{shown(url)} cannot be read: the server does not answer ({reason}). Is there a network?"
        raise UnreachableError(problem) from error
    with response:
        yield _WebSource(url, response)


def _of_status(error: urllib.error.HTTPError, url: str) -> RemoteError:
    if error.code in (404, 410):
        return MissingObjectError(f"{url}: there is no such file (HTTP {error.code}).")
    if error.code in (401, 403):
        return RemoteError(f"{url} cannot be read: not allowed (HTTP {error.code}).")
    kind = UnreachableError if error.code >= 500 or error.code in (408, 429) else RemoteError
    return kind(f"{url} cannot be read: HTTP {error.code} {error.reason}.")


class _WebSource:
    """An answer whose headers are read: what it says of the content holds for the bytes that follow."""

    def __init__(self, url: str, response: Any):
        self._url, self._response = shown(url), response
        headers = response.headers
        mark = headers.get("ETag") or headers.get("Last-Modified")
        length = headers.get("Content-Length")
        self.version = Version(mark, int(length) if length and length.isdecimal() else None)

    def write_to(self, file: Path) -> Version:
        written = 0
        try:
            with file.open("wb") as target:
                while block := self._response.read(_BLOCK):
                    target.write(block)
                    written += len(block)
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise UnreachableError(f"{self._url}: the connection broke after {written} bytes ({error}).") from error
        if self.version.size not in (None, written):
            raise UnreachableError(f"{self._url}: {written} of {self.version.size} bytes came.")
        return self.version


class _StoredSource:
    """An object in a store that fsspec knows."""

    def __init__(self, url: str):
        self._url = url
        self._store, self._path = open_store(url)
        self.version = self._look()

    def _look(self) -> Version:
        try:
            # What another process has changed since: no listing that was kept.
            self._store.invalidate_cache()
            info = self._store.info(self._path)
        except Exception as error:
            raise explain(error, shown(self._url)) from error
        if info.get("type") == "directory":
            raise RemoteError(f"{shown(self._url)} is a folder; expected a file.")
        return _version_of(info)

    def write_to(self, file: Path) -> Version:
        for _ in range(_TRIES):
            before = self._look()
            try:
                self._store.get_file(self._path, str(file))
            except Exception as error:
                raise explain(error, shown(self._url)) from error
            self.version = self._look()
            if self.version == before and self.version.size in (None, file.stat().st_size):
                return before
        raise UnreachableError(f"{shown(self._url)} changes while it is read; try again.")


def _version_of(info: dict[str, Any]) -> Version:
    found = [f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key)]
    found = found or [f"{key}={info[key]}" for key in _TIME_KEYS if info.get(key)]
    size = info.get("size")
    mark = hashlib.sha256("\n".join([*found, f"size={size}"]).encode()).hexdigest() if found else None
    return Version(mark, size if isinstance(size, int) else None)


def open_store(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it; it keeps no listings, which others may make old.

    Raises:
        RemoteError: no such protocol, or its package is not installed.
    """
    import fsspec

    scheme = scheme_of(url)
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise explain(error, shown(url)) from error
    except ValueError as error:
        raise RemoteError(
            f"{shown(url)}: no protocol {scheme}:// is known; expected s3://, hf:// or https://."
        ) from error
    try:
        options = kind._get_kwargs_from_urls(url)
        return kind(**options, use_listings_cache=False, skip_instance_cache=True), kind._strip_protocol(url)
    except Exception as error:
        raise explain(error, shown(url)) from error
