"""Metadata of an exported file."""

import os
import zipfile
from pathlib import Path
from typing import IO, Any

from loradet import __version__
from loradet.datasets.images.intensity import Intensity
from loradet.errors import MissingFileError, UserError
from loradet.export.padding import Padding
from loradet.files import parse_json

FORMAT = 1
METADATA_FILE = "loradet.json"  # in a .pt2; in an .onnx the key of the same text

# Of ONNX's ModelProto and StringStringEntryProto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What `export_detector` says of a file, read without loading the program: nothing of the file is run.

    Args:
        path: `.pt2` or `.onnx`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was not written by `export_detector`, or by one of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"Exported model {path} does not exist.")
    try:
        text = _text_of_onnx(path) if path.suffix == ".onnx" else _text_of_archive(path)
        metadata = parse_json(text, f"{path}: {METADATA_FILE}")
        version = int(metadata["format"])
    except (zipfile.BadZipFile, StopIteration, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no model that loradet export wrote, or it is cut short.") from error
    if version > FORMAT:
        raise UserError(f"{path} has format {version}, this loradet {__version__} reads up to {FORMAT}: update it.")
    return metadata


def _text_of_archive(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        # The folder in the archive depends on torch's version.
        name = next(name for name in archive.namelist() if name.endswith(f"/{METADATA_FILE}"))
        return archive.read(name)


def _text_of_onnx(path: Path) -> bytes:
    """From the file's own fields, past its graph, which is not read."""
    with path.open("rb") as file:
        end = path.stat().st_size
        found = [dict(_fields(file, start, stop)) for start, stop in _properties(file, end)]
        for spans in found:
            if _read(file, spans[_KEY]) == METADATA_FILE.encode():
                return _read(file, spans[_VALUE])
    raise ValueError(f"no {METADATA_FILE}")


def _properties(file: IO[bytes], end: int) -> list[tuple[int, int]]:
    return [span for number, span in _fields(file, 0, end) if number == _METADATA_PROPS]


def _fields(file: IO[bytes], start: int, end: int) -> list[tuple[int, tuple[int, int]]]:
    """Numbers of a message's fields, and where the bytes of those that have a length begin and end."""
    fields = []
    place = start
    while place < end:
        file.seek(place)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH:
            length = _varint(file)
            place = file.tell() + length
            fields.append((number, (file.tell(), place)))
        elif kind == _VARINT:
            _varint(file)
            place = file.tell()
        elif kind in (_FIXED32, _FIXED64):
            place = file.tell() + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"field {number} is of kind {kind}")
    if place != end:
        raise ValueError("cut short")
    return fields


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 64, 7):
        (byte,) = file.read(1)  # a ValueError at the end of the file
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")


def _read(file: IO[bytes], span: tuple[int, int]) -> bytes:
    file.seek(span[0])
    return file.read(span[1] - span[0])


def describe(metadata: dict[str, Any]) -> str:
    """What a program takes and gives, in a few lines for people."""
    about = metadata["input"]
    padding = Padding.of_metadata(about)
    if about["size"] is None:
        low, multiple = about["smallest"], about["multiple_of"]
        what = "any" if multiple == 1 else f"multiples of {multiple}"
        least = f"{low[0]}x{low[1]} (height x width)"
        size = f"height and width open: {what} {'from' if padding is None else 'of as many pixels as'} {least}"
    else:
        size = "{}x{} (height x width), fixed".format(*about["size"])
    lines = [
        f"input: {about['layout']}; batch {'open' if about['batch'] is None else 'of 1, fixed'}; {size}",
        f"output: {', '.join(metadata['outputs'])}; {metadata['max_detections']} detections at most",
        f"classes: {', '.join(metadata['classes'])}",
    ]
    if (intensity := metadata.get("intensity", "auto")) != "auto":
        lines.append(f"values of image files: intensity {Intensity.parse(intensity)}, to 0..255")
    if len(names := about.get("names", [])) > 1:
        lines.append(f"inputs: {', '.join(names)}; sizes is int64 (N, 2), height and width of each image in the batch")
    if padding is not None:
        takes = "one size at a time" if about["size"] is None else f"of {padding.describe(about['size'])}, no others"
        lines.append(f"images, once resized: {takes}; its network sees padding")
    lines += [f"{name} fixed: {reason}" for name, reason in about["fixed_because"].items()]
    lines += [f"weights: {metadata['weights']}"] if "weights" in metadata else []
    if checked := metadata.get("checked"):
        before = " before the weights were rounded" if "weights" in metadata else ""
        found = f"{checked['detections']} detections of {checked['images']} images"
        but = f", but for {checked['unmatched']} at a limit of NMS" if checked["unmatched"] else ""
        lines.append(f"checked{before}: {found} as torch finds them{but}")
    lines += ["trained on synthetic images"] if metadata.get("data") == "synthetic" else []
    return "\n".join(lines)
