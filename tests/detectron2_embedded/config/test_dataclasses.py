"""Dataclass instances in configs: they stay what they are when built, saved and loaded."""

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.config.instantiate import dump_dataclass
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, ListConfig, OmegaConf


@dataclass
class Point:
    x: int
    y: int = 2


@dataclass(frozen=True)
class Frozen:
    name: str = "n"


@dataclass
class Holder:
    shape: ShapeSpec
    several: list[Any] = field(default_factory=list)
    pair: tuple[Any, ...] = ()
    n: int = 1


@dataclass
class Named:
    _target_: str = "builtins.dict"
    x: int = 1


class Color(enum.Enum):
    RED = 1


def collect(**arguments: Any) -> dict[str, Any]:
    return arguments


def reloaded(cfg: DictConfig, folder: Path) -> DictConfig:
    LazyConfig.save(cfg, str(folder / "c.yaml"))
    return LazyConfig.load(str(folder / "c.yaml"))


def test_a_shape_spec_in_a_config_stays_one(tmp_path: Path) -> None:
    cfg = LazyCall(collect)(shape=ShapeSpec(channels=3, stride=4), cls=ShapeSpec)
    cfg.shape.height = 7
    for found in (instantiate(cfg), instantiate(reloaded(cfg, tmp_path))):
        assert type(found["shape"]) is ShapeSpec
        assert found["shape"] == ShapeSpec(channels=3, height=7, stride=4)
        # omegaconf takes a dataclass for its instance with the default values.
        assert found["cls"] == ShapeSpec()


def test_inside_lists_and_dicts_it_is_a_config(tmp_path: Path) -> None:
    # Detectron2 0.6, main of 2026-06-06: lists are built item by item, a dict without _target_ stays as it is.
    cfg = LazyCall(collect)(several=[ShapeSpec(channels=1)], named={"p3": ShapeSpec(channels=2)})
    for found in (instantiate(cfg), instantiate(reloaded(cfg, tmp_path))):
        assert isinstance(found["several"], ListConfig)
        assert found["several"][0].channels == 1
        assert isinstance(found["named"], DictConfig)
        assert found["named"].p3.channels == 2
    assert instantiate([OmegaConf.structured(ShapeSpec(channels=1))]) == [ShapeSpec(channels=1)]


def test_structured_config_becomes_its_object() -> None:
    assert instantiate(OmegaConf.structured(Point(3, 4))) == Point(3, 4)
    # Also where one of its fields is named as a call's target.
    assert instantiate(OmegaConf.structured(Named())) == Named()
    assert instantiate(Point(3)) == Point(3)


def test_a_frozen_one_comes_back_from_yaml(tmp_path: Path) -> None:
    cfg = LazyCall(collect)(it=Frozen("m"))
    assert instantiate(reloaded(cfg, tmp_path))["it"] == Frozen("m")


def test_dump_dataclass_is_built_again() -> None:
    holder = Holder(ShapeSpec(channels=3), [Point(1), 2], (Point(4), "a"))
    dumped = dump_dataclass(holder)
    assert dumped["_target_"].endswith("Holder")
    assert dumped["shape"] == {
        "_target_": "detectron2.layers.ShapeSpec",
        "channels": 3,
        "height": None,
        "width": None,
        "stride": None,
    }
    assert dumped["pair"][1] == "a"
    built = instantiate(dumped)
    assert built == Holder(ShapeSpec(channels=3), [Point(1), 2], [Point(4), "a"])


@pytest.mark.parametrize("wrong", [Point, {"x": 1}, 3])
def test_dump_dataclass_takes_instances_only(wrong: object) -> None:
    with pytest.raises(AssertionError):
        dump_dataclass(wrong)


def test_enums_and_paths_come_back(tmp_path: Path) -> None:
    cfg = DictConfig({"color": Color.RED, "path": Path("a/b")}, flags={"allow_objects": True})
    again = reloaded(cfg, tmp_path)
    assert again.color is Color.RED
    assert again.path == Path("a/b")
    assert not (tmp_path / "c.yaml.pkl").exists()


@pytest.mark.subset  # Detectron2 makes whatever object a file asks for
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("!!python/object:detectron2.layers.ShapeSpec {channel: 3}", "channel"),
        ("!!python/object:torch.nn.Linear {in_features: 3}", "no dataclass"),
        ("!!python/object:nowhere.Thing {}", "nowhere"),
        ("!!python/object/apply:os.getcwd []", "would have to be called"),
        ("!!python/object/apply:tests.Color [3]", "tests.Color|no module"),
    ],
)
def test_other_objects_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {text}\n")
    with pytest.raises(ValueError, match=says):
        LazyConfig.load(tmp_path / "a.yaml")
