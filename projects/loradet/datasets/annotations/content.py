"""From the bytes of a JSON file to its content, whatever encoding they are in."""

import codecs
import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loradet.datasets.files import PathLike, expand
from loradet.datasets.layouts import advice
from loradet.errors import MissingFileError, UserError
from loradet.files import parse_json

LISTS = ("images", "annotations", "categories")


class ImageEntry(msgspec.Struct, gc=False):
    """What is read of an entry of `images`; None where it is absent."""

    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None


class AnnotationEntry(msgspec.Struct, gc=False):
    """What is read of an entry of `annotations`; None where it is absent."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = None
    ignore: Any = None


class CategoryEntry(msgspec.Struct):
    """What is read of an entry of `categories`; None where it is absent."""

    id: Any = None
    name: Any = None
    supercategory: Any = None


class Entries(msgspec.Struct):
    """What is read of a file."""

    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    categories: list[CategoryEntry]
    info: Any = None

    def pieces(self) -> Iterator[list[AnnotationEntry]]:
        """The annotations, all in one."""
        yield self.annotations


class PiecewiseEntries(msgspec.Struct):
    """What is read of a file, its annotations not decoded yet."""

    images: list[ImageEntry]
    annotations: list[msgspec.Raw]
    categories: list[CategoryEntry]
    info: Any = None

    def pieces(self) -> Iterator[list[AnnotationEntry]]:
        """The annotations, `_PIECE` of them at a time.

        Raises:
            MsgspecError, RecursionError: one is not an object, or not sound JSON.
        """
        for start in range(0, len(self.annotations), _PIECE):
            yield _PIECE_OF_ENTRIES.decode(b"[%b]" % b",".join(self.annotations[start : start + _PIECE]))


_PIECE = 8192
_ENTRIES, _ANYTHING = msgspec.json.Decoder(Entries), msgspec.json.Decoder()
_UNDECODED, _PIECE_OF_ENTRIES = msgspec.json.Decoder(PiecewiseEntries), msgspec.json.Decoder(list[AnnotationEntry])


def read_bytes(path: Path) -> bytes:
    """The content of an annotation file.

    Raises:
        MissingFileError: there is none.
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        expected = f"{path}: there is no such file. Expected a COCO instances JSON (images, annotations, categories)."
        raise MissingFileError(f"{expected} {advice(path)}".rstrip()) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def decode_in_pieces(data: bytes) -> PiecewiseEntries | None:
    """The entries of a file whose annotations are decoded as they are asked for; None: `decode_entries` has to tell.

    Objects of two million annotations take 1 GB, and what they are written as 0.3 GB.
    """
    try:
        _check_utf8(data)
        return _UNDECODED.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    return None


def decode_entries(data: bytes, path: Path) -> tuple[Entries, bool]:
    """The entries of a file, and whether any JSON reader takes it: UTF-8 without a byte order mark, no NaN.

    Raises:
        UserError: not JSON, or not COCO instances; names the file and what is missing.
    """
    try:
        _check_utf8(data)
        return _ENTRIES.decode(data), True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    content = decode_content(data, path)
    return msgspec.convert(content, Entries), False


def _check_utf8(data: bytes) -> None:
    """UnicodeDecodeError where pycocotools, which may read the file too, raises it: our decoder skips what it can."""
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), 1 << 20):  # as one text the file may take twice its size
        decoder.decode(data[start : start + (1 << 20)])
    decoder.decode(b"", final=True)


def decode_content(data: bytes, path: Path) -> dict[str, Any]:
    """The whole content of a file; `images`, `annotations` and `categories` are lists of objects.

    Raises:
        UserError: as `decode_entries`.
    """
    return decode_checked(data, path)[0]


def decode_checked(data: bytes, path: Path) -> tuple[dict[str, Any], bool]:
    """The same, and whether the bytes are JSON by the letter, as any reader takes it.

    Raises:
        UserError: as `decode_entries`.
    """
    try:
        content, strict = _ANYTHING.decode(data), True
    except (msgspec.MsgspecError, RecursionError):
        content, strict = None, False
    if not isinstance(content, dict):
        content = parse_json(data, str(path), dict, advice="Expected a COCO instances file.")
    for key in LISTS:
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            state = "missing" if key not in content else "not a list of objects"
            raise UserError(
                f"{path}: '{key}' is {state}; a COCO instances file has images, annotations and categories."
            )
    return content, strict


def read_content(path: str | os.PathLike) -> dict[str, Any]:
    """The whole content of a COCO instances file as it is written; `path` is taken as it is.

    Raises:
        MissingFileError, UserError: as `read_bytes` and `decode_content`.
    """
    path = Path(path)
    return decode_content(read_bytes(path), path)


def read_coco(json_file: PathLike) -> dict[str, Any]:
    """`read_content` of a path that may have `~` and `$VARS`; for tools that write the content again.

    What it means is read by `loradet.datasets.annotations.read_annotations`.
    """
    return read_content(expand(json_file))


def encoding_fault(data: bytes) -> str | None:
    """Why other tools cannot read the bytes of a file that `decode_content` reads, in words; None where they can."""
    if data.startswith(codecs.BOM_UTF8):
        return "it begins with a byte order mark"
    encoding = json.detect_encoding(data)
    return None if encoding.startswith("utf-8") else f"it is in {encoding.upper()}, not in UTF-8"


def decode_json(data: bytes, path: Path, kind: type, expected: str) -> Any:
    """A JSON object or list, also with what is common and no JSON: NaN, Infinity, byte order marks, UTF-16.

    Args:
        kind: dict or list.
        expected: what the file should be, a sentence for the error.

    Raises:
        UserError: not JSON, or of another kind.
    """
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        value = _ANYTHING.decode(data)
        if isinstance(value, kind):
            return value
    return parse_json(data, str(path), kind, advice=expected)


def without_nan(value: Any) -> Any:
    """The same content with null for numbers that are not finite, and "?" for halves of surrogate pairs."""
    if isinstance(value, dict):
        return {without_nan(key): without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
