"""Files that are broken, unsafe, of another kind, or written by a process that dies."""

import logging
import os
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.marker,)


class StateOfRun:
    def __init__(self, content: object = None):
        self.content = content

    def state_dict(self) -> object:
        return self.content

    def load_state_dict(self, content: object) -> None:
        self.content = content


@pytest.mark.subset  # Detectron2 unpickles freely
@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl"])
def test_nothing_is_run(tmp_path: Path, name: str) -> None:
    content = {"model": {"weight": np.ones((2, 2), np.float32)}, "__author__": "x", "extra": Evil(tmp_path / "ran")}
    path = tmp_path / name
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(pickle.UnpicklingError, match=rf"{name}.*run code"):
        DetectionCheckpointer(nn.Linear(2, 2)).load(str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.float16, np.bool_])
def test_pickles_of_arrays(tmp_path: Path, protocol: int, dtype: type) -> None:
    model = nn.Linear(2, 2, bias=False)
    weight = np.array([[1, 0], [0, 1]], dtype=dtype)
    content = {"model": OrderedDict(weight=weight), "__author__": "x", "ap": np.float64(3.5), "n": [1, b"x", None]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    rest = DetectionCheckpointer(model).load(str(tmp_path / "a.pkl"))
    assert torch.equal(model.weight, torch.eye(2))
    assert rest["ap"] == 3.5
    assert rest["n"] == [1, b"x", None]


@pytest.mark.subset  # refused by Detectron2 0.6 with this torch
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.float16, np.bool_, np.uint8])
def test_numpy_values_in_a_pth(tmp_path: Path, dtype: type) -> None:
    model = nn.Linear(2, 2, bias=False)
    torch.save({"model": {"weight": np.eye(2, dtype=dtype)}, "value": dtype(1)}, tmp_path / "a.pth")
    assert DetectionCheckpointer(model).load(str(tmp_path / "a.pth")) == {"value": 1}
    assert torch.equal(model.weight, torch.eye(2))


@pytest.mark.subset
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_file_that_is_cut_off(tmp_path: Path, share: float, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(nn.Linear(50, 50).state_dict(), path)
    else:
        path.write_bytes(pickle.dumps({"model": {"weight": np.zeros((50, 50))}, "__author__": "x"}))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises((RuntimeError, pickle.UnpicklingError), match=f"model{suffix}.*(cut off|not a whole)"):
        DetectionCheckpointer(nn.Linear(50, 50)).load(str(path))


@pytest.mark.subset
@pytest.mark.parametrize("content", [b"not a checkpoint at all", b"\x80\x04N.", b"{}"])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    for suffix in (".pth", ".pkl"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(content)
        with pytest.raises((RuntimeError, ValueError, pickle.UnpicklingError), match=f"model{suffix}"):
            DetectionCheckpointer(nn.Linear(2, 2)).load(str(path))


def test_unknown_option_behind_the_path(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(ValueError):
        DetectionCheckpointer(nn.Linear(2, 2)).load(f"{tmp_path / 'a.pth'}?matching=1")


@pytest.mark.subset  # Detectron2 writes in place
def test_save_replaces_or_leaves_the_file(tmp_path: Path) -> None:
    state = StateOfRun(1)
    checkpointer = DetectionCheckpointer(nn.Linear(2, 2), str(tmp_path), state=state)
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()
    # A generator cannot be saved: torch.save fails after it has begun to write.
    state.content = (i for i in range(3))
    with pytest.raises(TypeError):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]
    with pytest.raises(ValueError, match="without folder"):
        checkpointer.save("sub/model")


@pytest.mark.subset  # Detectron2 writes in place
def test_a_killed_run_leaves_whole_files(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import detectron2_embedded, torch
        from detectron2.checkpoint import DetectionCheckpointer
        checkpointer = DetectionCheckpointer(torch.nn.Linear(600, 600), {str(tmp_path)!r})
        for i in range(10**6):
            checkpointer.save("model", iteration=i)
            print(i, flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == 3:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    assert DetectionCheckpointer(nn.Linear(600, 600), str(tmp_path)).resume_or_load("")["iteration"] >= 3


def test_periodic_checkpointer_keeps_the_newest(tmp_path: Path) -> None:
    checkpointer = DetectionCheckpointer(nn.Linear(2, 2), str(tmp_path))
    periodic = PeriodicCheckpointer(checkpointer, period=2, max_iter=9, max_to_keep=2)
    for i in range(9):
        periodic.step(i, more=i)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "model_0000005.pth",
        "model_0000007.pth",
        "model_final.pth",
    ]
    assert checkpointer.load(str(tmp_path / "model_0000005.pth")) == {"iteration": 5, "more": 5}


@pytest.mark.subset  # in Detectron2 0.6 it deletes
def test_a_process_that_writes_nothing_deletes_nothing(tmp_path: Path) -> None:
    writer = DetectionCheckpointer(nn.Linear(2, 2), str(tmp_path))
    reader = DetectionCheckpointer(nn.Linear(2, 2), str(tmp_path), save_to_disk=False)
    writing, reading = PeriodicCheckpointer(writer, 1), PeriodicCheckpointer(reader, 1, max_to_keep=1)
    for i in range(3):
        writing.step(i)
        reading.step(i)
    assert len(list(tmp_path.glob("*.pth"))) == 3


def test_buffers_that_models_compute_are_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.register_buffer("pixel_mean", torch.zeros(3))

    torch.save(
        {
            "head.weight": torch.eye(2),
            "anchor_generator.cell_anchors.0": torch.zeros(3, 4),
            "odd.weight": torch.ones(1),
        },
        tmp_path / "a.pth",
    )
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "a.pth"))
    assert "head" in caplog.text
    assert "odd" in caplog.text
    assert "pixel_mean" not in caplog.text
    assert "cell_anchors" not in caplog.text


def backbone_model(paths: list[str]) -> nn.Module:
    model = nn.Module()
    for path in paths:
        *parents, name = path.split(".")
        module = model
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        module.register_buffer(name, torch.zeros(2))
    return model


_word = st.sampled_from(["a", "b", "conv", "w"])


def _overlap(a: tuple, b: tuple) -> bool:
    return a[-len(b) :] == b or a[: len(b)] == b or b[: len(a)] == a


@settings(deadline=None)  # files are written
@given(st.lists(st.lists(_word, min_size=1, max_size=2).map(tuple), min_size=1, max_size=6, unique=True))
def test_weights_find_their_place_behind_a_prefix(tmp_path_factory: pytest.TempPathFactory, keys: list[tuple]) -> None:
    # No key may be a proper end or beginning of another one, or the place is not unique or not a leaf.
    keys = [
        k for k in keys if not any(k != o and (k[-len(o) :] == o or k[: len(o)] == o or o[: len(k)] == k) for o in keys)
    ]
    # A file without any weight is an error in Detectron2 0.6.
    assume(keys)
    names = [".".join(key) + ".x" for key in keys]
    model = backbone_model([f"backbone.bottom_up.{name}" for name in names])
    path = tmp_path_factory.getbasetemp() / "weights.pth"
    torch.save({name: torch.full((2,), i + 1.0) for i, name in enumerate(names)}, path)
    DetectionCheckpointer(model).load(f"{path}?matching_heuristics=True")
    for i, name in enumerate(names):
        assert model.state_dict()[f"backbone.bottom_up.{name}"].tolist() == [i + 1.0] * 2


def test_ambiguous_and_misshapen_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.pth"
    torch.save({"conv.w": torch.ones(2)}, path)
    with pytest.raises(ValueError):
        DetectionCheckpointer(backbone_model(["one.conv.w", "two.conv.w"])).load(f"{path}?matching_heuristics=True")
    torch.save({"conv.w": torch.ones(3)}, path)
    model = backbone_model(["one.conv.w"])
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(f"{path}?matching_heuristics=True")
    assert "3" in caplog.text
    assert not model.one.conv.w.any()


def test_caffe2_resnet(tmp_path: Path) -> None:
    from detectron2.modeling.backbone import BasicStem, ResNet

    def resnet() -> nn.Module:
        model = nn.Module()
        model.backbone = ResNet(
            BasicStem(3, 64, norm="FrozenBN"),
            ResNet.make_default_stages(50, norm="FrozenBN"),
            out_features=["res5"],
            freeze_at=0,
        )
        return model

    source = resnet()
    branches = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    kinds = {"weight": "_w", "norm.weight": "_bn_s", "norm.bias": "_bn_b"}
    blobs = {"conv1_w_momentum": np.zeros(3, np.float32), "fc1000_w": np.zeros((4, 4), np.float32)}
    for k, (name, value) in enumerate(source.state_dict().items()):
        value.fill_(k + 1.0)
        stage, *rest = name.removeprefix("backbone.").split(".")
        kind = ".".join(rest[1:] if stage == "stem" else rest[2:])
        if "running" in kind:
            value.fill_(0.0 if kind.endswith("mean") else 1.0)
            continue
        prefix = (
            ("res_conv1" if "norm" in kind else "conv1")
            if stage == "stem"
            else f"{stage}_{rest[0]}_{branches[rest[1]]}"
        )
        blobs[prefix + kinds[kind]] = value.numpy().copy()
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    model = resnet()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(-1.0)
    DetectionCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
