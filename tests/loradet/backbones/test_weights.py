"""Backbone weights from local files."""

import hashlib

import pytest
import timm
import torch
from safetensors.torch import save_file

from loradet.backbones import TimmBackbone, weights

NAME = "test_convnext"


@pytest.fixture(scope="module")
def source() -> TimmBackbone:
    torch.manual_seed(1)
    return TimmBackbone(NAME)


def same(first: torch.nn.Module, second: torch.nn.Module, **tolerance) -> None:
    for key, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[key], **tolerance)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("whole", [False, True])
def test_round_trip(source, tmp_path, suffix, whole):
    path = tmp_path / f"backbone{suffix}"
    state = (source if whole else source.net).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    same(TimmBackbone(NAME, weights=path), source, rtol=0, atol=0)


def test_half_precision_becomes_float32(source, tmp_path):
    state = {key: value.half() for key, value in source.net.state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    loaded = TimmBackbone(NAME, weights=tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for key, value in loaded.net.state_dict().items():
        assert torch.equal(value, state[key].float())


@pytest.mark.parametrize("out_features", [None, ["stage1"]])
def test_names_as_timm_publishes_them(tmp_path, out_features):
    torch.manual_seed(2)
    published = timm.create_model(NAME, num_classes=7)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    loaded = TimmBackbone(NAME, out_features=out_features, weights=tmp_path / "model.safetensors")
    expected = published.state_dict()
    for key, value in loaded.net.state_dict().items():
        name = key if key in expected else key.replace("_", ".", 1)
        assert torch.equal(value, expected[name]), key


def test_batch_norm_statistics_are_loaded(tmp_path):
    torch.manual_seed(3)
    published = timm.create_model("test_resnet")
    published.bn1.running_mean.normal_()
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    loaded = TimmBackbone("test_resnet", weights=tmp_path / "model.safetensors")
    assert torch.equal(loaded.net.bn1.running_mean, published.bn1.running_mean)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"version https://git-lfs.github.com/spec/v1", b"<!doctype html>", b"\x80\x02", b"PK\x03\x04"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_another_kind_is_named_and_no_advice_of_torch_s_is_passed_on(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no file of weights: it is cut off, damaged") as error:
        weights.read_state_dict(path)
    assert str(path) in str(error.value) and "weights_only" not in str(error.value)


def test_what_is_no_tensor_is_named_and_not_read(tmp_path):
    torch.save({"where": tmp_path}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds a pathlib\.\S*Path besides tensors") as error:
        weights.read_state_dict(tmp_path / "w.pth")
    assert "weights_only" not in str(error.value)


def test_other_weights_are_refused(source, tmp_path):
    path = tmp_path / "w.safetensors"
    state = source.net.state_dict()
    before = source.net.stem_0.weight.clone()

    save_file({key: value for key, value in state.items() if key != "stem_1.bias"}, path)
    with pytest.raises(ValueError, match=r"w\.safetensors.*missing: stem_1\.bias"):
        weights.load_weights(source.net, path, NAME)
    save_file({**state, "extra.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"unexpected: extra\.weight"):
        weights.load_weights(source.net, path, NAME)
    save_file({**state, "stem_1.bias": torch.ones(5)}, path)
    with pytest.raises(ValueError, match=r"stem_1\.bias \(5,\) instead of \(24,\)"):
        weights.load_weights(source.net, path, NAME)
    assert torch.equal(source.net.stem_0.weight, before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_or_absent_files_are_named(tmp_path, suffix):
    path = tmp_path / f"broken{suffix}"
    with pytest.raises(FileNotFoundError, match="broken"):
        TimmBackbone(NAME, weights=path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="broken"):
        TimmBackbone(NAME, weights=path)


def test_a_pth_file_with_code_in_it_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="trap"):
        TimmBackbone(NAME, weights=tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_assets_are_checked(source, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.importlib.resources, "files", lambda _: tmp_path)
    folder = tmp_path / "assets"
    folder.mkdir()
    asset = folder / "tiny.safetensors"
    with pytest.raises(FileNotFoundError, match="no weights"):
        weights.resolve("asset://tiny.safetensors")
    save_file(source.net.state_dict(), asset)
    digest = hashlib.sha256(asset.read_bytes()).hexdigest()
    (folder / "tiny.safetensors.sha256").write_text(f"{digest}  tiny.safetensors\n")
    same(TimmBackbone(NAME, weights="asset://tiny.safetensors"), source, rtol=0, atol=0)
    with pytest.raises(FileNotFoundError, match=r"tiny\.safetensors"):
        weights.resolve("asset://other.safetensors")
    asset.write_bytes(asset.read_bytes() + b" ")
    with pytest.raises(ValueError, match="damaged"):
        weights.resolve("asset://tiny.safetensors")
