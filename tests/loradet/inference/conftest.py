"""Fixtures of the tests of loading, exporting and predicting."""

import pytest
import torch
from helpers.random_detector import config, detector

from loradet.adapters import adapter_state, merged_state_dict, save_adapter
from loradet.inference.export import export_checkpoint


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with one detector as model.pth, merged.pth and adapter.safetensors, which needs base.pth."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = detector()
    torch.save({"model": model.state_dict(), "adapter_recipes": adapter_state(model)}, folder / "model.pth")
    torch.save({"model": merged_state_dict(model)}, folder / "merged.pth")
    base = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.bottom_up.")}
    torch.save({"model": {k: v for k, v in base.items() if "lora_" not in k}}, folder / "base.pth")
    save_adapter(model, folder / "adapter.safetensors", classes=["tank", "car", "ship"], class_ids=[4, 7, 9])
    return folder


@pytest.fixture(scope="session")
def exported(weights):
    """The same detector, exported with open batch, height and width."""
    path = weights / "new" / "model.pt2"
    export_checkpoint(config(), str(weights / "model.pth"), str(path))
    return path
