"""Files from elsewhere, by URL: fetched once, kept in a cache of limited size."""

from loradet.remote.errors import MissingObjectError, RemoteError, UnreachableError
from loradet.remote.local_copy import local_copy, local_path
from loradet.remote.urls import file_name, is_url, scheme_of, shown, split_heuristics

__all__ = [
    "MissingObjectError",
    "RemoteError",
    "UnreachableError",
    "file_name",
    "is_url",
    "local_copy",
    "local_path",
    "scheme_of",
    "shown",
    "split_heuristics",
]
