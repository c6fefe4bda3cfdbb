"""HTTP downloads that go on where they broke off, and are finished whole or not at all."""

import http.client
import json
import logging
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from loradet.errors import UserError
from loradet.files import write_json

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18
_LONGEST_WAIT = 60.0  # seconds
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone at the next try
_BROKEN = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException, urllib.error.URLError)


class DownloadError(UserError, OSError):
    """A file could not be had; the message has its name, and the bytes expected and found."""


class _AttemptError(Exception):
    """This attempt is over; the next one may go on from what is there."""


@dataclass(frozen=True)
class _Version:
    """What a server says of a file; parts of one file must agree in all of it. `size` is in bytes."""

    url: str
    size: int
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """The value for If-Range, which takes a strong ETag or a date (RFC 9110, 13.1.5)."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.last_modified

    def continues(self, earlier: "_Version") -> bool:
        """Whether a partial response is of the earlier version; what it leaves out, If-Range vouches for."""
        same = self.etag in (None, earlier.etag) and self.last_modified in (None, earlier.last_modified)
        return same and self.size == earlier.size


class _Part:
    """The bytes so far (`NAME.part`) and the version that they belong to (`NAME.part.json`)."""

    def __init__(self, target: Path) -> None:
        self.file = target.with_name(f"{target.name}.part")
        self._state = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    def version(self, url: str, size: int | None) -> _Version | None:
        """The version that can be continued; None where a download from `url` has to start over."""
        try:
            version = _Version(**json.loads(self._state.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        fits = version.url == url and 0 < self.size <= version.size and size in (None, version.size)
        return version if fits and (version.validator or self.size == version.size) else None

    def start(self, version: _Version) -> None:
        # Emptied first: a kill between the two lines must not leave old bytes under the new version.
        self.file.write_bytes(b"")
        write_json(self._state, asdict(version))

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        with self.file.open("rb+") as file:
            os.fsync(file.fileno())
        self.file.replace(target)
        self._state.unlink(missing_ok=True)


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    size: int | None = None,
    check: Callable[[Path], None] | None = None,
    retries: int = 5,
    backoff: float = 1.0,
    timeout: float = 30.0,
    progress: bool = False,
) -> Path:
    """Download a file; after a dropped connection, or in a later call, go on from what is there.

    The bytes are kept in `target` + ".part" until all are there. They are continued only where the server still has
    the same file (length, ETag and Last-Modified); otherwise, and where it does not know Range requests, the download
    starts over.

    Args:
        target: the file to write; its folder must exist.
        size: bytes that the file must have, where they are known.
        check: called with the whole file before it takes its name; raises ValueError to refuse it.
        retries: attempts in a row that bring nothing new before it is given up.
        backoff: seconds before the first retry; doubled at each further one, to a minute at most.
        timeout: seconds without a byte after which a connection counts as dropped.
        progress: show a bar on stderr.

    Returns:
        `target`.

    Raises:
        FileExistsError: `target` is there already; it is never overwritten.
        DownloadError: the server refuses, has a file of another size, ends too early every time, or does not say how
            long the file is.
        OSError: the disk is too full.
        ValueError: not an http(s) URL, or `check` refused the file; then nothing of it is kept.
    """
    target = Path(target)
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"Expected a URL that begins with http:// or https://, got {url!r}.")
    if target.exists():
        raise FileExistsError(f"{target} is there already and is not overwritten.")
    part = _Part(target)
    _fetch_all(url, part, size=size, retries=retries, backoff=backoff, timeout=timeout, progress=progress)
    if check is not None:
        try:
            check(part.file)
        except ValueError:
            part.discard()
            raise
    part.finish(target)
    return target


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise OSError where the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{what} needs {needed:,} bytes in {folder}, but {free:,} are free.")


def _fetch_all(
    url: str, part: _Part, *, size: int | None, retries: int, backoff: float, timeout: float, progress: bool
) -> None:
    failures, furthest = 0, part.size
    while True:
        try:
            return _fetch(url, part, size=size, timeout=timeout, progress=progress)
        except (_AttemptError, *_BROKEN) as error:
            hopeless = (ssl.SSLCertVerificationError, http.client.InvalidURL)
            if isinstance(getattr(error, "reason", error), hopeless):
                raise DownloadError(f"{url}: {_reason(error)}.") from error
            # Bytes that no attempt had before are progress; the same ones again are not.
            failures = 0 if part.size > furthest else failures + 1
            furthest = max(furthest, part.size)
            if failures > retries:
                raise DownloadError(f"{url}: {_reason(error)}. Given up after {failures} attempts.") from error
            wait = min(backoff * 2 ** max(failures - 1, 0), _LONGEST_WAIT)
            logger.warning("%s: %s; trying again in %g s.", part.file.name, _reason(error), wait)
            time.sleep(wait)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _fetch(url: str, part: _Part, *, size: int | None, timeout: float, progress: bool) -> None:
    """One request; returns when the part holds the whole file."""
    known = part.version(url, size)
    start = part.size if known else 0
    if known and start == known.size:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "loradet"}
    if known:
        headers |= {"Range": f"bytes={start}-", "If-Range": known.validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                part.discard()
            if error.code == 416 or error.code in _PASSING:
                raise _AttemptError(f"HTTP {error.code} {error.reason}") from error
            raise DownloadError(f"{url}: HTTP {error.code} {error.reason}.") from error
    with response:
        offered = _offered(url, response, start)
        if size not in (None, offered.size):
            part.discard()
            raise DownloadError(f"{url}: expected a file of {size:,} bytes, the server has one of {offered.size:,}.")
        if response.status == 206 and not (known and offered.continues(known)):
            part.discard()
            raise _AttemptError("the file has changed on the server, starting over")
        if response.status != 206:
            start = 0
        require_space(part.file.parent, offered.size - start, f"The rest of {url}")
        if start == 0:
            if part.size:
                logger.warning("%s: its %s bytes cannot be continued; starting over.", part.file.name, f"{part.size:,}")
            part.start(offered)
        _receive(response, part, start, offered.size, progress)


def _offered(url: str, response: http.client.HTTPResponse, start: int) -> _Version:
    """The file that a response is of, or is a part of."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"{url}: the server sends it encoded ({headers['Content-Encoding']}), unasked.")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", "").strip())
        first, last, size = map(int, match.groups()) if match else (-1, -1, 0)
        if (first, last) != (start, size - 1):
            raise DownloadError(
                f"{url}: asked for the bytes from {start:,} on, the server answers {headers.get('Content-Range')!r}."
            )
    elif response.status == 200 and re.fullmatch(r"\d+", headers.get("Content-Length", "")):
        size = int(headers["Content-Length"])
    else:
        raise DownloadError(f"{url}: HTTP {response.status}, and the server does not say how long the file is.")
    return _Version(url, size, headers.get("ETag"), headers.get("Last-Modified"))


def _receive(response: http.client.HTTPResponse, part: _Part, start: int, size: int, progress: bool) -> None:
    from tqdm import tqdm

    # A bar also in the log of a detached run, where it should not write a line twice a second.
    rare = 0.2 if sys.stderr.isatty() else 30.0
    bar = tqdm(
        desc=part.file.name.removesuffix(".part"),
        **dict(total=size, initial=start, unit="B", unit_scale=True, mininterval=rare, disable=not progress),
    )
    with part.file.open("ab") as file, bar:
        left = size - start
        while left and (block := response.read1(min(_CHUNK, left))):
            file.write(block)
            file.flush()  # a killed process leaves all that came
            left -= len(block)
            bar.update(len(block))
    if left:
        raise _AttemptError(f"expected {size:,} bytes, found {size - left:,} when the connection ended")
