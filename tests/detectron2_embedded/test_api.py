"""Names, parameters, their order, kinds and defaults are those of Detectron2 (0.6, main of 2026-06-06).

`tests/golden/detectron2/api.json` has the public interface of all its modules; `tests/record_detectron2_api.py` wrote
it. Whatever of that the subset has is compared, and whatever it has not must say so.
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import pytest
from helpers.detectron2_api import describe, method, parameters
from helpers.paths import TESTS

pytestmark = pytest.mark.subset

RECORD = json.loads((TESTS / "golden" / "detectron2" / "api.json").read_text(encoding="utf-8"))
MODULES = RECORD["modules"]

# What differs on purpose: why, and patterns of dotted names. One that fits nothing any more is an error.
DELIBERATE = {
    "reads a yacs config, which is not part of the subset": ["*.from_config"],
    "paints training images; a positive vis_period is refused": ["*.visualize_training"],
    "masks, keypoints, rotated boxes and segmentation are not part of the subset": [
        *("*.apply_rotated_box", "*.Visualizer.*_rotated_*", "*.Visualizer.draw_*_seg*", "*.Visualizer.draw_*_mask"),
        "*.Visualizer.draw_and_connect_keypoints",
    ],
    "norm and activation are stated; Detectron2 takes them out of **kwargs": ["*.layers.*Conv2d"],
    "states the parameters of ResNet.make_stage, whose old name it is": ["*.make_stage"],
    "the constructor is nn.Module's, which takes nothing either": ["*.Backbone"],
    "abstract; states the argument that every backbone takes": ["*.Backbone.forward"],
}
PATTERNS = [pattern for patterns in DELIBERATE.values() for pattern in patterns]


def differences(name: str, module: ModuleType) -> Iterator[tuple[str, str]]:
    """Dotted name, and what is different, of what a module has under the names of Detectron2's."""
    for key, entry in MODULES[name].items():
        value = vars(module).get(key)
        if value is None:
            continue
        dotted = f"{name}.{key}"
        if "function" in entry:
            if inspect.isclass(value) or not callable(value):
                yield dotted, f"is a function in Detectron2, and {type(value).__name__} here"
            elif entry["function"] is not None:
                yield from compare(dotted, entry["function"], parameters(value))
        elif not inspect.isclass(value):
            yield dotted, f"is a class in Detectron2, and {type(value).__name__} here"
        elif "members" in entry:
            yield from compare(dotted, entry["members"], describe(value).get("members", []))
        else:
            yield from class_differences(dotted, entry, value)


def class_differences(dotted: str, entry: dict[str, Any], cls: type) -> Iterator[tuple[str, str]]:
    if "class" in entry:
        yield from compare(dotted, entry["class"], parameters(cls))
    for key, expected in entry["methods"].items():
        found = method(cls, key)
        if expected == "property":
            # What Detectron2 works out when it is asked for may be an attribute that the constructor sets.
            if found not in ("property", None):
                yield f"{dotted}.{key}", "is a property in Detectron2, and a method here"
        elif not isinstance(found, list):
            yield f"{dotted}.{key}", f"is a method in Detectron2, and {found or 'nothing'} here"
        else:
            yield from compare(f"{dotted}.{key}", expected, found)


def compare(dotted: str, expected: list[str], found: list[str]) -> Iterator[tuple[str, str]]:
    """The first parameter that differs."""
    if expected == found:
        return
    pairs = zip([*expected, None], [*found, None])
    first, second = next((a, b) for a, b in pairs if a != b)
    yield (
        dotted,
        f"({', '.join(expected)}) in Detectron2, ({', '.join(found)}) here: {first or 'no more'} became "
        f"{second or 'nothing'}",
    )


def subset_module(name: str) -> ModuleType | None:
    """A module of the subset, or None where it says that it has none of that name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert "is not part of the embedded subset" in str(error), f"{name} is absent, and does not say so"
        return None


@pytest.mark.parametrize("name", MODULES)
def test_what_both_have_is_called_alike(name):
    module = subset_module(name)
    found = [] if module is None else list(differences(name, module))
    wrong = [f"{dotted}: {what}" for dotted, what in found if not any(fnmatchcase(dotted, p) for p in PATTERNS)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MODULES)
def test_absent_names_say_so(name):
    module = subset_module(name)
    silent = []
    for key in MODULES[name] if module is not None else ():
        try:
            getattr(module, key)
        except ImportError as error:
            assert "is not part of the embedded subset" in str(error)
        except AttributeError:
            silent.append(key)
    assert not silent, f"{name}: {', '.join(silent)}"


def test_every_deliberate_difference_is_one():
    found = {dotted for name in MODULES if (module := subset_module(name)) for dotted, _ in differences(name, module)}
    stale = [pattern for pattern in PATTERNS if not any(fnmatchcase(dotted, pattern) for dotted in found)]
    assert not stale


def test_the_record_says_of_what_it_is():
    assert RECORD["version"] == "0.6" and len(RECORD["revision"]) == 40
    assert len(MODULES) > 100 and sum(map(len, MODULES.values())) > 500


def test_nothing_but_an_installed_one_is_recorded(tmp_path):
    command = [sys.executable, TESTS / "record_detectron2_api.py", "--output", tmp_path / "a.json"]
    environment = {key: value for key, value in os.environ.items() if key != "LORADET_DETECTRON2"}
    environment["DETECTRON2_EMBEDDED"] = "always"
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "expected an installed Detectron2" in done.stderr
    assert not (tmp_path / "a.json").exists()


def test_a_difference_names_function_and_parameter():
    module = ModuleType("detectron2.layers.nms")
    exec("def batched_nms(boxes, scores, idxs, threshold=0.5): pass", vars(module))
    assert list(differences("detectron2.layers.nms", module)) == [
        (
            "detectron2.layers.nms.batched_nms",
            "(boxes, scores, idxs, iou_threshold) in Detectron2, (boxes, scores, idxs, threshold=0.5) here: "
            "iou_threshold became threshold=0.5",
        )
    ]


class Example:
    """Something to describe."""

    def __init__(self, a, /, b: int = 1, *args, c="x", **kwargs):
        pass

    @classmethod
    def made(cls, d=(1,), *, e=None):
        pass

    @staticmethod
    def loose(f=int):
        pass

    @property
    def size(self):
        return 0

    def plain(self, g=[1.0]):  # noqa: B006
        pass


def test_how_parameters_are_written():
    assert parameters(Example) == ["a", "/", "b=1", "*args", "c='x'", "**kwargs"]
    assert method(Example, "made") == ["@classmethod", "d=(1,)", "*", "e=None"]
    assert method(Example, "loose") == ["@staticmethod", "f=int"]
    assert method(Example, "size") == "property" and method(Example, "absent") is None
    assert method(Example, "plain") == ["g=[1.0]"]
    assert parameters(lambda a, /: a) == ["a", "/"]
