"""What is a URL of a file, and how it is named."""

import os
import re
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.ASCII)
WEB = ("http", "https")
# Detectron2's query behind a file of weights, which is none of the server's.
_OF_DETECTRON2 = re.compile(r"\?matching_heuristics=\w+$")


def is_url(text: str | os.PathLike) -> bool:
    """Whether a text is a URL that `local_copy` knows how to read: `https://`, `hf://`, `s3://` and what fsspec knows.

    `asset://`, and what Detectron2 alone knows, as `detectron2://`, are none.
    """
    if (scheme := scheme_of(text)) is None:
        return False
    if scheme in WEB or scheme == "hf":
        return True
    from fsspec.registry import known_implementations

    return scheme in known_implementations


def scheme_of(text: str | os.PathLike) -> str | None:
    """What stands before "://"; None where nothing does."""
    found = _SCHEME.match(os.fspath(text))
    return found[1] if found else None


def split_heuristics(url: str) -> tuple[str, str]:
    """A URL of weights, and Detectron2's `?matching_heuristics=True` behind it ("" where there is none)."""
    found = _OF_DETECTRON2.search(url)
    return (url[: found.start()], found[0]) if found else (url, "")


def shown(url: str) -> str:
    """A URL for messages and logs: without what may be a secret, a query (as of a presigned one) or a password."""
    if scheme_of(url) not in WEB:
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def file_name(url: str) -> str:
    """The name of the file at a URL, whose ending tells its kind."""
    path = urlsplit(url).path if scheme_of(url) in WEB else url
    name = unquote(path) if scheme_of(url) in WEB else path
    name = name.rstrip("/").rpartition("/")[2]
    if scheme_of(url) == "hf":
        name = name.partition("@")[0]
    return re.sub(r"[^\w.+=-]", "_", name).lstrip(".") or "file"
