"""What is no weight is refused by name, whichever way it comes in."""

import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from loradet.adapters import freeze, load_adapter, lora, read_adapter, save_adapter
from loradet.adapters.files.adapter_file import METADATA_KEY
from loradet.backbones import TimmBackbone
from loradet.checkpoint import Checkpointer
from loradet.tensors import check_tensors
from loradet.training.checkpoints.pickled_weights import convert_weights

ODD = {
    "NaN": (torch.tensor([1.0, torch.nan]), r"\(1 of 2 NaN\)"),
    "infinite": (torch.tensor([torch.inf, -torch.inf]), r"\(2 of 2 infinite\)"),
    "bool": (torch.tensor([True, False]), r"\(bool\)"),
    "integer": (torch.tensor([1, 2]), r"\(int64\)"),
    "complex": (torch.tensor([1j, 2j]), r"\(complex64\)"),
}
STORED_ODDLY = {
    "8 bits": (torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn), r"\(float8_e4m3fn\)"),
    "sparse": (torch.tensor([0.0, 2.0]).to_sparse(), r"\(float32, sparse_coo\)"),
}


@pytest.mark.parametrize("kind", [*ODD, *STORED_ODDLY])
def test_odd_tensors_are_named(kind):
    odd, words = (ODD | STORED_ODDLY)[kind]
    for own in (None, {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}):
        with pytest.raises(ValueError, match=rf"w\.pth holds .*b\.weight {words}") as caught:
            check_tensors({"a.weight": torch.ones(2), "b.weight": odd}, "w.pth", own)
        assert "a.weight" not in str(caught.value)


def test_counters_halves_and_what_is_not_loaded_pass():
    counted = {"norm.num_batches_tracked": torch.tensor(3), "w.weight": torch.ones(2, dtype=torch.float16)}
    check_tensors(counted | {"index": torch.tensor([1, 2])}, "w.pth")
    check_tensors({"elsewhere.weight": torch.tensor([torch.nan])}, "w.pth", {"w.weight": torch.ones(2)})
    # What is infinite in the model itself may be.
    check_tensors({"mask": torch.tensor([-torch.inf])}, "w.pth", {"mask": torch.tensor([-torch.inf])})


def with_odd(state: dict, name: str, kind: str) -> dict:
    odd = ODD[kind][0]
    return state | {name: odd.repeat(state[name].numel())[: state[name].numel()].reshape(state[name].shape)}


# safetensors has no complex numbers in every version.
FILES = [(".pth", kind) for kind in ODD] + [(".safetensors", kind) for kind in ODD if kind != "complex"]


@pytest.mark.parametrize(("suffix", "kind"), FILES)
@pytest.mark.parametrize("strict", [True, False])
def test_checkpoints(tmp_path, kind, suffix, strict):
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    state = with_odd(net.state_dict(), "1.running_var", kind)
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"model": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w{suffix} holds .*1\.running_var"):
        Checkpointer(net).load_weights(str(path), strict=strict)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("kind", ["NaN", "bool", "integer"])
def test_adapters(tmp_path, kind):
    net = lora(freeze(nn.Sequential(nn.Linear(2, 2)), unfreeze=[]), targets=["0"], rank=1, alpha=1.0)
    path = tmp_path / "a.safetensors"
    save_adapter(net, path)
    info, tensors = read_adapter(path)
    safetensors.torch.save_file(with_odd(tensors, "0.lora_a", kind), path, {METADATA_KEY: json.dumps(info)})
    with pytest.raises(ValueError, match=r"a\.safetensors holds .*0\.lora_a"):
        load_adapter(net, path)


@pytest.mark.parametrize("kind", ["infinite", "integer"])
def test_weights_of_a_backbone(tmp_path, kind):
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "out_features": ["stage1"]}
    state = TimmBackbone("convnext_atto", **sizes).state_dict()
    name = "net.stages_0.blocks.0.norm.weight"
    torch.save(with_odd(state, name, kind), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth holds .*stages_0\.blocks\.0\.norm\.weight"):
        TimmBackbone("convnext_atto", weights=tmp_path / "net.pth", **sizes)


@pytest.mark.parametrize("value", [np.array([np.nan], "f4"), np.array([1, 2]), np.array([True])])
def test_pickles_of_the_model_zoo(tmp_path, value):
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": {"fc.weight": value, "fc.bias": np.ones(2, "f4")}}))
    with pytest.raises(ValueError, match=r"zoo\.pkl holds .*fc\.weight"):
        convert_weights(tmp_path / "zoo.pkl", tmp_path / "zoo.pth")
    assert not (tmp_path / "zoo.pth").exists()
