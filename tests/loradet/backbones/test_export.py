"""Weights out of a detector's checkpoint."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

from loradet.backbones import TimmBackbone
from loradet.backbones.export import export_weights

SMALL = dict(model_name="convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


def checkpoint(tmp_path, backbone, **extra):
    state = {f"backbone.bottom_up.{name}": value for name, value in backbone.state_dict().items()}
    path = tmp_path / "model_best.pth"
    torch.save({"model": {**state, "head.weight": torch.ones(2), **extra}, "iteration": 3}, path)
    return path


def test_exported_file_loads_as_backbone_weights(tmp_path):
    torch.manual_seed(0)
    trained = TimmBackbone(**SMALL)
    output = tmp_path / "small.safetensors"
    digest = export_weights(checkpoint(tmp_path, trained), output)
    assert digest == hashlib.sha256(output.read_bytes()).hexdigest()
    assert (tmp_path / "small.safetensors.sha256").read_text().split() == [digest, output.name]
    assert {tensor.dtype for tensor in load_file(output).values()} == {torch.float16}
    loaded = TimmBackbone(**SMALL, weights=output)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.half().float(), rtol=0, atol=0)


def test_the_rest_keeps_its_names(tmp_path):
    output = tmp_path / "rest.safetensors"
    export_weights(checkpoint(tmp_path, TimmBackbone(**SMALL)), output, rest=True, dtype=torch.float32)
    assert {name: value.tolist() for name, value in load_file(output).items()} == {"head.weight": [1.0, 1.0]}


def test_wrong_prefix_and_overflow_are_errors(tmp_path):
    backbone = TimmBackbone(**SMALL)
    with pytest.raises(ValueError, match=r"no tensor under 'elsewhere\.'"):
        export_weights(checkpoint(tmp_path, backbone), tmp_path / "out", prefix="elsewhere.")
    path = checkpoint(tmp_path, backbone, **{"backbone.bottom_up.net.huge": torch.tensor([1e6])})
    with pytest.raises(ValueError, match=r"huge do not fit"):
        export_weights(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
