"""Weights of Detectron2's model zoo: refused as pickles, converted to files that the checkpointer takes."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from safetensors import safe_open
from torch import nn

from loradet.backbones.resnet_weights import resnet_with_weights
from loradet.backbones.weights import read_state_dict
from loradet.checkpoint import Checkpointer, CheckpointError
from loradet.training.checkpoints.pickled_weights import convert_weights, read_pickled_weights


def detector() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.stem = nn.Module()
    model.backbone.stem.conv1 = nn.Conv2d(3, 2, 3)
    model.head = nn.Linear(2, 2)
    return model


def arrays(model: nn.Module, prefix: str = "") -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): tensor.numpy()
        for name, tensor in model.state_dict().items()
        if name.startswith(prefix)
    }


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_detector_of_the_model_zoo(tmp_path, suffix):
    source = detector()
    extras = {"__author__": "Detectron2 Model Zoo", "trainer": {"iteration": 3}}
    pkl = write(tmp_path / "model_final.pkl", {"model": arrays(source), **extras})
    written = convert_weights(pkl, tmp_path / f"zoo{suffix}")
    assert written.author == "Detectron2 Model Zoo" and written.left_out == ["trainer"] and not written.backbone_only
    model = detector()
    Checkpointer(model).load_weights(str(tmp_path / f"zoo{suffix}"), strict=True)
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_backbone_alone_finds_its_place(tmp_path, suffix):
    source = detector()
    content = {"model": arrays(source, "backbone."), "__author__": "torchvision", "matching_heuristics": True}
    written = convert_weights(write(tmp_path / "R.pkl", content), tmp_path / f"r{suffix}")
    assert written.backbone_only and written.left_out == [] and "stem.conv1.weight" in written.tensors
    model = detector()
    head = model.head.weight.clone()
    Checkpointer(model).load_weights(str(tmp_path / f"r{suffix}"), strict=False)
    assert torch.equal(model.backbone.stem.conv1.weight, source.backbone.stem.conv1.weight)
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize("wrapped", [False, True])
def test_caffe2_names_become_detectron2s(tmp_path, wrapped):
    names = {
        "conv1_w": "stem.conv1.weight",
        "res_conv1_bn_s": "stem.conv1.norm.weight",
        "res_conv1_bn_b": "stem.conv1.norm.bias",
        "res2_0_branch1_w": "res2.0.shortcut.weight",
        "res2_0_branch1_bn_s": "res2.0.shortcut.norm.weight",
        "res4_22_branch2a_w": "res4.22.conv1.weight",
        "res5_2_branch2b_bn_b": "res5.2.conv2.norm.bias",
        "res5_2_branch2c_bn_running_var": "res5.2.conv3.norm.running_var",
        "fc1000_w": "linear.weight",
        "pred_b": "linear.bias",
    }
    blobs = {name: np.full(2, i, np.float32) for i, name in enumerate(names)}
    unused = {"conv1_w_momentum": np.ones(1), "conv1_b": np.zeros(2), "lr": np.float64(0.1)}
    content = {"blobs": blobs | unused} if wrapped else blobs
    found = read_pickled_weights(write(tmp_path / "R-50.pkl", content))
    assert found.backbone_only and found.left_out == (list(unused) if wrapped else [])
    for i, name in enumerate(names.values()):
        assert found.tensors.pop(name).tolist() == [i, i]
    # Statistics are folded into scale and bias.
    norms = ("stem.conv1", "res2.0.shortcut")
    assert {k: v.tolist() for k, v in found.tensors.items()} == {
        **{f"{norm}.norm.running_mean": [0, 0] for norm in norms},
        **{f"{norm}.norm.running_var": [1, 1] for norm in norms},
    }
    write(tmp_path / "detector.pkl", {"blobs": {"conv1_w": np.ones(1), "fpn_inner_res5_2_sum_w": np.ones(1)}})
    with pytest.raises(ValueError, match=r"detector\.pkl has 'fpn_inner_res5_2_sum_w'.*only ImageNet ResNets"):
        read_pickled_weights(tmp_path / "detector.pkl")


def test_msras_backbone_becomes_one_that_a_resnet_takes(tmp_path):
    """From Caffe2's names to the config's `weights`, with every name that ResNet-50 has."""
    branches = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    kinds = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}
    blobs = {"conv1_b": np.zeros(64, np.float32)}
    options = {"norm": "FrozenBN", "stride_in_1x1": True}
    net = ResNet(BasicStem(norm="FrozenBN"), ResNet.make_default_stages(50, **options), out_features=["res5"])
    for name, tensor in net.state_dict().items():
        stage, *rest = name.split(".")
        if "running" in name:
            continue
        if stage == "stem":
            old = f"{'res_' if 'norm' in name else ''}conv1_{kinds['.'.join(rest[1:])]}"
        else:
            old = f"{stage}_{rest[0]}_{branches[rest[1]]}_{kinds['.'.join(rest[2:])]}"
        blobs[old] = np.full(tensor.shape, len(blobs), np.float16)
    convert_weights(write(tmp_path / "R-50.pkl", blobs), tmp_path / "R-50.safetensors")
    resnet_with_weights(net=net, weights=tmp_path / "R-50.safetensors")
    values = [t.flatten()[0].item() for k, t in net.state_dict().items() if "running" not in k]
    assert values == list(range(1, len(blobs)))


def test_every_kind_of_number_and_layout(tmp_path):
    values = {
        "f2": np.arange(6, dtype=np.float16).reshape(2, 3),
        "big": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "count": np.array(7),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "indices": np.arange(3),
    }
    convert_weights(write(tmp_path / "a.pkl", {"model": values, "__author__": "x"}, 5), tmp_path / "a.safetensors")
    state = read_state_dict(tmp_path / "a.safetensors")
    assert state["f2"].dtype == torch.float16 and state["fortran"].dtype == torch.float64
    for name, value in values.items():
        assert np.array_equal(state[name].numpy(), value), name
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "author": "x", "matching_heuristics": "False"}


class Evil:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"w": torch.ones(1)}, "__author__": "x"}, r"torch\._utils\.\w+.*could run code"),
        ({"model": {"w": [1.0]}, "__author__": "x"}, "w is of type list; expected a numpy array"),
        ({"model": {"w": np.array(["a"])}, "__author__": "x"}, "w is an array of <U1"),
        ({"model": {"w": np.array([None])}, "__author__": "x"}, "w is an array of object"),
        ({"model": {}, "__author__": "x"}, "no weights; its keys are model, __author__"),
        ({}, "its keys are none"),
        ([1, 2], "holds list; expected a dict"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"bad\.pkl.*{message}"):
        convert_weights(write(tmp_path / "bad.pkl", content), tmp_path / "out.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pkl"]


def test_files_that_cannot_be_read_or_written(tmp_path):
    good = write(tmp_path / "good.pkl", {"model": {"w": np.ones(9)}, "__author__": "x"})
    (tmp_path / "cut.pkl").write_bytes(good.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut\.pkl cannot be read: cut off or no pickle"):
        convert_weights(tmp_path / "cut.pkl", tmp_path / "out.pth")
    torch.save({"w": torch.ones(1)}, tmp_path / "torch.pkl")
    with pytest.raises(ValueError, match=r"torch\.pkl cannot be read: it is a zip.*name it \.pth"):
        convert_weights(tmp_path / "torch.pkl", tmp_path / "out.pth")
    (tmp_path / "bomb.pkl").write_bytes(b"K\x01r" + struct.pack("<I", 2**31) + b".")
    with pytest.raises(ValueError, match=r"bomb\.pkl cannot be read"):
        convert_weights(tmp_path / "bomb.pkl", tmp_path / "out.pth")
    with pytest.raises(FileNotFoundError, match="none"):
        convert_weights(tmp_path / "none.pkl", tmp_path / "out.pth")
    with pytest.raises(ValueError, match=r"out\.pkl: expected .*\.safetensors or \.pth"):
        convert_weights(good, tmp_path / "out.pkl")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        convert_weights(good, tmp_path / "no" / "out.pth")
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*"))


def test_a_pickle_is_refused_with_the_reason_and_the_way(tmp_path):
    """Also a harmless one, and before anything of a harmful one is run."""
    way = r"to unpickle a file is to run whatever it says.*loradet weights convert .*a\.pkl a\.safetensors"
    for content in ({"model": arrays(detector()), "__author__": "x"}, {"model": Evil(tmp_path / "ran")}):
        pkl = write(tmp_path / "a.pkl", content)
        for path in (str(pkl), f"{pkl}?matching_heuristics=True"):
            with pytest.raises(CheckpointError, match=way):
                Checkpointer(detector()).load_weights(path, strict=False)
        with pytest.raises(ValueError, match=way):
            read_state_dict(pkl)
    with pytest.raises(ValueError, match=r"a\.pkl is refused, and nothing of it was run: .*(posix|nt)\.mkdir"):
        convert_weights(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpointer(detector()).load_weights(str(tmp_path / "none.pkl"), strict=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pkl"]
