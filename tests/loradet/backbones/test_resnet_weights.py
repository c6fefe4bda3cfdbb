"""ImageNet weights in both layouts of names give the same network; files of others are named."""

from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling.backbone import BasicStem, ResNet
from safetensors.torch import save_file

from loradet.backbones.resnet_weights import resnet_with_weights


def build(depth: int = 18, norm: str = "FrozenBN", out_features=("res2", "res3", "res4", "res5")) -> ResNet:
    stem = BasicStem(norm=norm)
    kinds = {"stride_in_1x1": False} if depth >= 50 else {}
    return ResNet(stem, ResNet.make_default_stages(depth, norm=norm, **kinds), out_features=list(out_features))


def reference(depth: int) -> torch.nn.Module:
    """torchvision's network with statistics that are not the identity."""
    torch.manual_seed(depth)
    net = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
    return net


def maps_of(net: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    maps = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def shapes_only(builder, path: Path) -> Path:
    """A file with the names and shapes of a network, of almost no bytes."""
    with torch.device("meta"):
        state = builder().state_dict()
    torch.save({name: torch.zeros([]).expand(tensor.shape) for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize(("depth", "norm"), [(18, "BN"), (50, "FrozenBN")])
def test_torchvisions_names(tmp_path, depth, norm):
    net = reference(depth)
    torch.save(net.state_dict(), tmp_path / "tv.pth")
    loaded = resnet_with_weights(net=build(depth, norm), weights=tmp_path / "tv.pth").eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(loaded(images).values(), maps_of(net, images)):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_detectron2s_names(tmp_path, norm):
    source = build(norm="BN")
    for i, tensor in enumerate(source.state_dict().values()):
        tensor.fill_(i + 1)
    state = {k: v.half() for k, v in source.state_dict().items()} | {"linear.weight": torch.ones(2, 2)}
    save_file({k: v for k, v in state.items() if "tracked" not in k}, tmp_path / "d2.safetensors")
    net = build(norm=norm)
    assert resnet_with_weights(net=net, weights=tmp_path / "d2.safetensors") is net
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.float32 and torch.equal(tensor, source.state_dict()[name]), name


def test_stages_that_were_not_built_are_passed_over(tmp_path):
    net = reference(18)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "tv.pth")
    loaded = resnet_with_weights(net=build(out_features=["res3"]), weights=str(tmp_path / "tv.pth"))
    assert torch.equal(loaded.res3[1].conv2.weight, net.layer2[1].conv2.weight)
    stem = resnet_with_weights(net=build(out_features=["stem"]), weights=str(tmp_path / "tv.pth"))
    assert torch.equal(stem.stem.conv1.weight, net.conv1.weight)
    before = build()
    assert resnet_with_weights(net=before) is before


def test_other_networks_are_named(tmp_path):
    models = torchvision.models
    with torch.device("meta"):
        net, partly = build(50), build(50, out_features=["res3"])
    for builder, message in (
        (models.resnet101, "holds a ResNet-101; the config's network is a ResNet-50"),
        (models.resnet34, "holds a ResNet-34; .*a ResNet-50"),
        (lambda: build(152), "holds a ResNet-152; .*a ResNet-50"),
        (models.wide_resnet50_2, r"other shape: res2\.0\.conv1\.weight \(128, 64, 1, 1\) instead of \(64, 64, 1, 1\)"),
        (models.resnext50_32x4d, r"other shape: res2\.0\.conv1\.weight"),
        (models.vgg11, r"holds no ResNet by itself.*features\.0\.weight.*train\.init_checkpoint"),
        (lambda: torch.nn.ModuleDict({"backbone": build()}), r"holds no ResNet by itself.*backbone\.stem"),
    ):
        with pytest.raises(ValueError, match=rf"other\.pth.*{message}"):
            resnet_with_weights(net=net, weights=shapes_only(builder, tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="ResNet-34; the config's network is stages of 3, 4 bottleneck blocks"):
        resnet_with_weights(net=partly, weights=shapes_only(models.resnet34, tmp_path / "other.pth"))


def test_missing_and_unexpected_tensors_are_named_and_nothing_is_loaded(tmp_path):
    state = reference(18).state_dict()
    del state["layer3.1.bn2.bias"]
    torch.save({**state, "layer3.1.se.weight": torch.ones(1), "odd": torch.ones(1)}, tmp_path / "tv.pth")
    net = build()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"missing: res4\.1\.conv2\.norm\.bias; unexpected: res4\.1\.se\.weight, odd\."
    ):
        resnet_with_weights(net=net, weights=tmp_path / "tv.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        resnet_with_weights(net=net, weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"R-50\.pkl is a pickle.*loradet weights convert"):
        (tmp_path / "R-50.pkl").write_bytes(b"")
        resnet_with_weights(net=net, weights=tmp_path / "R-50.pkl")


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_random_weights_are_told_of(tmp_path, caplog, norm):
    net = build(norm=norm)
    assert resnet_with_weights(net=net) is net
    (record,) = caplog.records
    assert record.levelname == "WARNING" and ("FrozenBN" in record.message) == (norm == "FrozenBN")
    assert "weights=None" in record.message
    if norm == "FrozenBN":
        for name in ("model.backbone.bottom_up.module.weights", "train.init_checkpoint", "norm=BN"):
            assert name in record.message
    caplog.clear()
    torch.save(reference(18).state_dict(), tmp_path / "tv.pth")
    resnet_with_weights(net=net, weights=tmp_path / "tv.pth")
    assert not caplog.records
