"""Every config file of the project goes through all that Detectron2 does to one at the start of a training."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from detectron2.config import LazyConfig
from helpers.paths import ROOT
from omegaconf import OmegaConf

from loradet.config import load_config
from loradet.config.trust import untrusted_calls_in_file

# What a user has to give: where the data lie.
GIVEN_BY_USERS = {"data.root", "data.data_yaml"}


FILES = sorted(
    path for path in (ROOT / "configs").rglob("*.py") if "common" not in path.parts and path.name != "study.py"
)


def _cases() -> Iterator[Any]:
    """The files of each folder; only the last one is quick to be tried, and those that users copy."""
    for path, following in itertools.zip_longest(FILES, FILES[1:]):
        last = following is None or following.parent != path.parent
        marks = () if last or path.parent.name == "configs" else pytest.mark.slow
        yield pytest.param(path, marks=marks, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("file", list(_cases()))
def test_detectron2_prints_and_saves_it(file, tmp_path, caplog):
    cfg = LazyConfig.load(str(file))
    if not {"model", "dataloader", "train"} <= set(cfg):
        pytest.skip("a part of configs, not one by itself")
    missing = set(_missing(cfg))
    assert missing <= GIVEN_BY_USERS
    cfg = LazyConfig.apply_overrides(cfg, [f"{key}=/data" for key in missing])
    assert LazyConfig.to_py(cfg)
    path = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"], caplog.text
    assert set(LazyConfig.load(str(path))) == set(cfg)
    # Whoever gets it beside an adapter reads it without --trust.
    assert untrusted_calls_in_file(path) == []


def _missing(node: Any, path: str = "") -> Iterator[str]:
    """Keys that hold `???` themselves; references to them do not count."""
    for key in node if OmegaConf.is_dict(node) else range(len(node)) if OmegaConf.is_list(node) else ():
        where = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_missing(node, key):
            if not OmegaConf.is_interpolation(node, key):
                yield where
        elif not OmegaConf.is_interpolation(node, key):
            yield from _missing(node[key], where)


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_split_may_be_taken_out(split, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from detectron2.config import LazyConfig\n"
        f"_cfg = LazyConfig.load({str(ROOT / 'configs/custom_coco.py')!r})\n"
        "data, model, train, optimizer, lr_multiplier, dataloader = (\n"
        "    _cfg[k] for k in ('data', 'model', 'train', 'optimizer', 'lr_multiplier', 'dataloader')\n"
        ")\n"
        f"del dataloader.{split}\n"
    )
    cfg = load_config(str(file), ["data.root=/data"])
    left = {"test": "val", "val": "test"}[split]
    assert cfg.dataloader.evaluator.dataset_name == f"custom_{left}"
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert LazyConfig.load(str(tmp_path / "config.yaml")).dataloader.evaluator.dataset_name == f"custom_{left}"


def test_an_evaluator_without_a_data_set_gets_one():
    cfg = load_config(
        str(ROOT / "configs/custom_coco.py"), ["data.root=/data", "dataloader.evaluator.dataset_name=???"]
    )
    assert cfg.dataloader.evaluator.dataset_name == "custom_test"
