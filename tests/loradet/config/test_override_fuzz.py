"""Whatever is given as an override ends in one line, or in a config that has it and builds a training."""

import copy
from collections import Counter

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.override_fuzz import overrides
from helpers.paths import TEST_CONFIGS
from omegaconf import OmegaConf

from loradet.config import load_config
from loradet.config.load import complete
from loradet.datasets.synthetic import generate
from loradet.errors import UserError, is_user_error
from loradet.training.assemble import assemble
from loradet.training.folder.folder_lock import FolderLock
from loradet.training.prepare import prepare

CONFIG = str(TEST_CONFIGS / "tiny.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzz")
        patch.setenv("LORADET_CACHE", str(folder / "cache"))
        yield generate(folder / "data", size=(48, 64), counts={"train": 4, "val": 2, "test": 2})


def outcome(cfg, override, key, value) -> str:
    """ "refused", "not built" or "built"; anything but a line for users is raised."""
    try:
        cfg = complete(cfg, [override])
    except UserError as error:
        assert "\n" not in str(error).replace(override, ""), str(error)
        return "refused"
    if value is not ...:
        held = OmegaConf.select(cfg, key, throw_on_missing=False)
        held = OmegaConf.to_container(held) if OmegaConf.is_config(held) else held
        typed = override.partition("=")[2]
        assert held in (value, typed) and (type(held) is type(value) or held == typed), f"{override}: {held!r}"
    try:
        with FolderLock(cfg.train.output_dir) as lock:
            if (prepared := prepare(cfg, resume=False, lock=lock)) is not None:
                assemble(prepared)
    except Exception as error:
        if not is_user_error(error):
            raise
        return "not built"
    return "built"


def run(data, folder, monkeypatch, count: int, seed: int) -> tuple[Counter, dict[str, str]]:
    monkeypatch.chdir(folder)
    (folder / "run").mkdir()
    plain = LazyConfig.load(CONFIG)
    plain.data.root = str(data)
    plain.data.name = "fuzz"
    plain.train.output_dir = str(folder / "run")
    plain.train.device = "cpu"
    plain.train.overwrite = True
    plain.dataloader.train.num_workers = 0
    # The log of each would take longer than all else.
    monkeypatch.setattr("loradet.training.prepare.setup_process", lambda *_: torch.device("cpu"))
    found, broken, before = Counter(), {}, set(DatasetCatalog.list())
    known = complete(copy.deepcopy(plain), [])
    for override, key, value in overrides(known, count, seed):
        try:
            found[outcome(copy.deepcopy(plain), override, key, value)] += 1
        except Exception as error:
            broken[override] = f"{type(error).__name__}: {error}"
        finally:
            for name in set(DatasetCatalog.list()) - before:
                DatasetCatalog.remove(name)
                MetadataCatalog.pop(name, None)
    return found, broken


def test_some_overrides(data, tmp_path, monkeypatch):
    found, broken = run(data, tmp_path, monkeypatch, 12, seed=0)
    assert not broken, broken
    assert found["refused"] and sum(found.values()) == 12


@pytest.mark.slow
def test_many_overrides(data, tmp_path, monkeypatch):
    found, broken = run(data, tmp_path, monkeypatch, 640, seed=1)
    assert not broken, "\n".join(f"{override}: {error}" for override, error in broken.items())
    assert sum(found.values()) == 640
    assert found["refused"] > 100 and found["built"] > 30, found


def test_the_config_itself_is_taken(data):
    assert load_config(CONFIG, [f"data.root={data}"]).data.root == str(data)
