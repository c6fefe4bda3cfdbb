"""The detector that ships with the project, as an ONNX file, and images of many sizes for it."""

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from PIL import Image

from loradet.adapters import adapter_state
from loradet.config import load_config
from loradet.model import initial_model, load_detector

CLASSES = ["ship", "aircraft", "car", "tank", "bridge", "harbor"]


def quickstart():
    return load_config(
        str(ROOT / "configs" / "quickstart.py"),
        ["data.root=/nowhere", f"data.classes=[{','.join(CLASSES)}]", "train.device=cpu", "data.max_size=640"],
        needs_data=False,
    )


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """The quickstart's detector as its training starts, merged; and a folder with model.pth and model.onnx of it."""
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'loradet[onnx]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'loradet[onnx]'")
    from loradet.inference.export import export_checkpoint

    folder = tmp_path_factory.mktemp("shipped")
    model = initial_model(quickstart())
    torch.save({"model": model.state_dict(), "adapter_recipes": adapter_state(model)}, folder / "model.pth")
    export_checkpoint(quickstart(), str(folder / "model.pth"), str(folder / "model.onnx"))
    return load_detector(quickstart(), folder / "model.pth", merge=True), folder


@pytest.fixture(scope="session")
def photographs():
    """Twenty parts of photographs, each of another size, uint8 (H, W, 3)."""
    whole = np.asarray(Image.open(ROOT / "docs" / "images" / "bccd.jpg").convert("RGB"))
    draw = np.random.default_rng(0)
    sizes = [(int(h), int(w)) for h, w in zip(draw.integers(40, 420, 20), draw.integers(40, 420, 20))]
    assert len(set(sizes)) == 20
    corners = [(draw.integers(0, whole.shape[0] - h), draw.integers(0, whole.shape[1] - w)) for h, w in sizes]
    return [np.ascontiguousarray(whole[y : y + h, x : x + w]) for (y, x), (h, w) in zip(corners, sizes)]
