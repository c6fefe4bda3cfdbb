"""Metadata of an exported file."""

import os
import zipfile
from pathlib import Path
from typing import Any

from loradet import __version__
from loradet.datasets.images.intensity import Intensity
from loradet.errors import MissingFileError, UserError
from loradet.files import parse_json

FORMAT = 1
METADATA_FILE = "loradet.json"


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What `export_detector` says of a file, read without loading the program: nothing of the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was not written by `export_detector`, or by one of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"Exported model {path} does not exist.")
    try:
        with zipfile.ZipFile(path) as archive:
            # The folder in the archive depends on torch's version.
            name = next(name for name in archive.namelist() if name.endswith(f"/{METADATA_FILE}"))
            metadata = parse_json(archive.read(name), f"{path}: {name}")
        version = int(metadata["format"])
    except (zipfile.BadZipFile, StopIteration, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no model that loradet export wrote, or it is cut short.") from error
    if version > FORMAT:
        raise UserError(f"{path} has format {version}, this loradet {__version__} reads up to {FORMAT}: update it.")
    return metadata


def describe(metadata: dict[str, Any]) -> str:
    """What a program takes and gives, in a few lines for people."""
    about = metadata["input"]
    if about["size"] is None:
        low, multiple = about["smallest"], about["multiple_of"]
        size = f"height and width open: multiples of {multiple} from {low[0]}x{low[1]} (height x width)"
    else:
        size = "{}x{} (height x width), fixed".format(*about["size"])
    lines = [
        f"input: {about['layout']}; batch {'open' if about['batch'] is None else 'of 1, fixed'}; {size}",
        f"output: {', '.join(metadata['outputs'])}; {metadata['max_detections']} detections at most",
        f"classes: {', '.join(metadata['classes'])}",
    ]
    if (intensity := metadata.get("intensity", "auto")) != "auto":
        lines.append(f"values of image files: intensity {Intensity.parse(intensity)}, to 0..255")
    lines += [f"{name} fixed: {reason}" for name, reason in about["fixed_because"].items()]
    lines += ["trained on synthetic images"] if metadata.get("data") == "synthetic" else []
    return "\n".join(lines)
