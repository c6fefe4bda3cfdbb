"""The package stands on floors: imports point down, so that no room needs one above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import loradet

ROOT = Path(loradet.__file__).parent

# From the ground up; rooms of one floor do not import each other.
FLOORS = [
    (
        "errors",
        "env",
        "wording",
        "json_kinds",
        "locking",
        "lazy",
        "garbage_pause",
        "event_storage",
        "detectron2_embedded",
    ),
    ("files", "paths", "tensors"),
    ("remote", "run_folder"),
    ("adapters", "datasets"),
    ("backbones", "class_rows"),
    ("detectors", "weight_classes"),
    ("checkpoint",),
    ("config",),
    ("model",),
    ("feature_cache", "views"),
    ("evaluation",),
    ("visualization",),
    ("training",),
    ("export", "ray"),
    ("inference",),
    ("experiments", "sharing"),
    ("benchmarks",),
    ("cli",),
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def rooms() -> Iterator[tuple[str, Path, str]]:
    """Room, file, and a room of loradet that the file imports."""
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[0] == "__init__":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.startswith("loradet."):
                    yield parts[0], file, name.split(".")[1]


def test_every_room_has_a_floor():
    assert {room for room, _, _ in rooms()} <= FLOOR.keys()


def test_imports_point_down():
    upward = [
        f"{file.relative_to(ROOT)} imports loradet.{other}"
        for room, file, other in rooms()
        if other in FLOOR and other != room and FLOOR[other] >= FLOOR[room]
    ]
    assert not upward, "\n".join(upward)
