"""All names that the subset declares absent: Detectron2 has them, and their errors say what to do."""

import importlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from detectron2_embedded import is_embedded

# Run on the subset, whichever Detectron2 this process uses.
LIST = """
import importlib, json, pkgutil
import detectron2_embedded, detectron2
from detectron2._instead import INSTEAD
from detectron2._subset import _missing_modules

modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(detectron2.__path__, "detectron2.")]
modules.append(detectron2)
names = sorted({name for module in modules for name in vars(module)})
messages = {}
for path in sorted(_missing_modules.names):
    parent, _, name = path.rpartition(".")
    try:
        exec(f"from {parent} import {name}")
    except ImportError as error:
        messages[path] = str(error)
print(json.dumps({"messages": messages, "instead": INSTEAD, "names": names}))
"""


@pytest.fixture(scope="module")
def subset() -> dict:
    environment = {key: value for key, value in os.environ.items() if key != "LORADET_DETECTRON2"}
    environment["DETECTRON2_EMBEDDED"] = "always"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIST], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(is_embedded(), reason="needs an installed Detectron2 (DETECTRON2_EMBEDDED=never)")
def test_detectron2_has_them(subset: dict) -> None:
    unknown = []
    for path in subset["messages"]:
        parent, _, name = path.rpartition(".")
        module = importlib.import_module(parent)
        if not hasattr(module, name) and find_spec(path) is None:
            unknown.append(path)
    assert not unknown


@pytest.mark.subset
def test_their_errors_name_them_and_the_way_out(subset: dict) -> None:
    assert len(subset["messages"]) > 150
    for path, message in subset["messages"].items():
        assert message.startswith(f"{path} is not part of the embedded subset of Detectron2")
        assert "DETECTRON2_EMBEDDED=never" in message


@pytest.mark.subset
def test_what_to_use_in_their_place_is_said(subset: dict) -> None:
    used = set()
    for path, message in subset["messages"].items():
        advice = [key for key in (path, path.rpartition(".")[2]) if key in subset["instead"]]
        used.update(advice)
        assert ("Here, " in message) == bool(advice), path
        if advice:
            assert message.endswith(subset["instead"][advice[0]])
    assert used == set(subset["instead"]), "advice for names that are not absent"


@pytest.mark.subset
def test_what_to_use_is_there(subset: dict) -> None:
    """Names in the code of the advice are names of the subset, of torch or of the config at hand."""
    known = {*subset["names"], "torch", "model", "cfg", "trainer", "path", "weights", "cls", "after_backward"}
    for advice in subset["instead"].values():
        for code in re.findall("`([^`]+)`", advice):
            for name in re.findall(r"(?<![\w.'])([A-Za-z_]\w*)(?!\w*=)", code):
                assert name in known, f"{name} in {code}"


@pytest.mark.subset
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("config.get_cfg", "LazyConfig.load"),
        ("config.CfgNode", "LazyConfig.load"),
        ("config.defaults", "LazyConfig.load"),
        ("config.configurable", "LazyCall(cls)"),
        ("engine.DefaultTrainer", "engine.AMPTrainer"),
        ("engine.defaults.DefaultPredictor", "DetectionCheckpointer(model).load(weights)"),
        ("modeling.build_model", "instantiate(cfg.model)"),
        ("solver.build_optimizer", "get_default_optimizer_params"),
        ("solver.build.maybe_add_gradient_clipping", "clip_grad_norm_"),
        ("engine.hooks.AutogradProfiler", "TorchProfiler"),
    ],
)
def test_some_of_them(subset: dict, name: str, says: str) -> None:
    assert says in subset["messages"][f"detectron2.{name}"]


@pytest.mark.subset
def test_others_have_no_replacement(subset: dict) -> None:
    assert "Here, " not in subset["messages"]["detectron2.structures.BitMasks"]


class Echo(torch.nn.Module):
    """Says what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch: list[dict]) -> list[dict]:
        return [
            {
                "shape": list(record["image"].shape),
                "size": (record["height"], record["width"]),
                "training": self.training,
                "weight": self.weight.item(),
            }
            for record in batch
        ]


def test_the_lines_that_predict(tmp_path: Path) -> None:
    """As the error of DefaultPredictor writes them."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    torch.save({"model": {"weight": torch.ones(1)}}, tmp_path / "w.pth")
    (tmp_path / "c.py").write_text("train = dict(device='cpu')\n")
    cfg = LazyConfig.load(str(tmp_path / "c.py"))
    cfg.model = LazyCall(Echo)()
    cfg.dataloader = {
        "test": {
            "mapper": LazyCall(DatasetMapper)(
                is_train=False, augmentations=[LazyCall(ResizeShortestEdge)(short_edge_length=10)], image_format="BGR"
            )
        }
    }
    path, weights = str(tmp_path / "a.png"), str(tmp_path / "w.pth")
    model = instantiate(cfg.model).to(cfg.train.device).eval()
    DetectionCheckpointer(model).load(weights)
    with torch.no_grad():
        found = model([instantiate(cfg.dataloader.test.mapper)({"file_name": path})])[0]
    assert found == {"shape": [3, 10, 15], "size": (20, 30), "training": False, "weight": 1.0}
