"""From a URL to a file on this machine."""

import os
import threading
import time
from pathlib import Path

from loradet.errors import MissingFileError, UserError
from loradet.paths import cache_dir
from loradet.remote.cache import Cache, Held
from loradet.remote.hub import hub_file
from loradet.remote.sources import open_store
from loradet.remote.urls import is_url, scheme_of

_FRESH_S = 60.0  # a process asks the server no more often: a command looks at a file several times
_DEFAULT_GB = 20.0
_held: dict[str, tuple[float, Held]] = {}
_lock = threading.Lock()


def local_copy(url: str) -> Path:
    """The file at a URL, as a file on this machine that stays until the process ends.

    `https://`, `s3://` and others of fsspec are kept in `$LORADET_CACHE/remote` (`~/.cache/loradet/remote`), of at most
    LORADET_CACHE_GB (20), the least recently used goes first. `hf://OWNER/NAME/PATH[@REVISION]` is in the Hub's own
    cache. A file that has changed there is fetched anew; where the server does not answer, the copy counts, with a
    warning; LORADET_OFFLINE=1 asks nobody, HF_HUB_OFFLINE=1 not the Hub.

    Args:
        url: as `is_url` tells.

    Raises:
        UserError: one line: no such file, no right, an unknown protocol, no package for it, no answer and no copy.
    """
    scheme = scheme_of(url)
    if scheme == "hf":
        return hub_file(url)
    if scheme in ("file", "local"):
        file = Path(open_store(url)[1])
        if not file.is_file():
            raise MissingFileError(f"{url}: there is no such file.")
        return file
    with _lock:
        asked, held = _held.get(url, (0.0, None))
        if held is not None and time.monotonic() - asked < _FRESH_S and held.path.is_file():
            return held.path
        found = _cache().get(url, offline=_is_offline())
        if held is None or held.path != found.path:
            _held[url] = time.monotonic(), found
        else:
            found.handle.close()
            _held[url] = time.monotonic(), held
        return found.path


def local_path(file: str | os.PathLike) -> Path:
    """A file as it is, or the local copy of one at a URL.

    Raises:
        UserError: as `local_copy`.
    """
    return local_copy(os.fspath(file)) if is_url(file) else Path(file)


def _cache() -> Cache:
    text = os.environ.get("LORADET_CACHE_GB") or str(_DEFAULT_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not gigabytes > 0:
        raise UserError(f"LORADET_CACHE_GB={text}: expected a number of gigabytes, more than 0.")
    return Cache(cache_dir("remote"), None if gigabytes == float("inf") else int(gigabytes * 1e9))


def _is_offline() -> bool:
    return os.environ.get("LORADET_OFFLINE", "").lower() in ("1", "true", "yes", "on")
