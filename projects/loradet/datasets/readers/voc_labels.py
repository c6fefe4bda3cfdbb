"""Parses the XML file of a Pascal VOC image."""

import math
from pathlib import Path
from xml.etree import ElementTree

from loradet.datasets.readers.file_cache import FaultyFileError

# name, whether difficult, and the corners as they are written: counted from 1, the last pixel belongs to the box
VocObject = tuple[str, bool, float, float, float, float]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"0": False, "1": True, "": False, "false": False, "true": True, "unspecified": False}


def read_voc_objects(file: Path) -> list[VocObject]:
    """The objects of an annotation file.

    Raises:
        FaultyFileError: no XML, no annotation, or elements that cannot be what they should; each with its place.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).partition(": line")[0]
        raise FaultyFileError([f"{file}, line {line}, column {column}: not valid XML: {reason}."]) from error
    except (OSError, ValueError, LookupError) as error:  # not readable, or of an encoding that there is not
        raise FaultyFileError([f"{file}: cannot be read: {error}."]) from error
    if root.tag != "annotation":
        raise FaultyFileError([f"{file}: its element is <{root.tag}>, expected <annotation>."])
    objects, faults = [], []
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            objects.append(_object(element))
        except _ElementError as error:
            faults.append(f"{file}: annotation/object[{number}]{error}")
    if faults:
        raise FaultyFileError(faults)
    return objects


class _ElementError(Exception):
    """A place below an object, and what is wrong there."""


def _object(element: ElementTree.Element) -> VocObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise _ElementError("/name is empty or missing, expected the name of a class.")
    text = (element.findtext("difficult") or "").strip()
    if text.lower() not in _FLAGS:
        raise _ElementError(f"/difficult is {text!r}, expected 0 or 1.")
    box = element.find("bndbox")
    if box is None:
        turned = " (it has a rotated box)" if element.find("robndbox") is not None else ""
        raise _ElementError(f" ({name}) has no bndbox{turned}, expected one with {', '.join(_CORNERS)}.")
    corners = [_number(box, corner) for corner in _CORNERS]
    for first, last in ((0, 2), (1, 3)):
        if corners[last] < corners[first]:
            raise _ElementError(
                f"/bndbox: {_CORNERS[last]} is {corners[last]:g}, less than {_CORNERS[first]}, {corners[first]:g}."
            )
    return (name, _FLAGS[text.lower()], *corners)


def _number(box: ElementTree.Element, corner: str) -> float:
    text = (box.findtext(corner) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _ElementError(f"/bndbox/{corner} is {text!r}, expected a number of pixels.")
    return value
