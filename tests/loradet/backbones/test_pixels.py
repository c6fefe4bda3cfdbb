"""Pixel statistics of a detector are those that its backbone states of itself."""

import pytest
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from safetensors.torch import save_file
from torch import nn

from loradet.adapters import freeze
from loradet.backbones import TimmBackbone, TimmViT, VisionMamba
from loradet.backbones.pixels import check_pixels
from loradet.backbones.resnet_stages import resnet_stages
from loradet.backbones.resnet_weights import resnet_with_weights
from loradet.detectors.detr import TorchvisionResNet

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module, mean: list[float], std: list[float], input_format: str = "RGB"):
        super().__init__()
        self.backbone, self.input_format = backbone, input_format
        for name, values in (("pixel_mean", mean), ("pixel_std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)


class Stating(nn.Module):
    pixel_mean, pixel_std = (100.0, 110.0, 120.0), (50.0, 51.0, 52.0)


def neck(backbone: nn.Module) -> nn.Module:
    return nn.ModuleDict({"bottom_up": backbone})


def torchvision_weights(tmp_path):
    """A ResNet of Detectron2 from a file in torchvision's names."""
    import torchvision

    save_file(torchvision.models.resnet18(weights=None).state_dict(), str(tmp_path / "resnet18.safetensors"))
    stem = BasicStem(in_channels=3, out_channels=64, norm="FrozenBN")
    net = ResNet(stem, resnet_stages(depth=18, norm="FrozenBN"), out_features=["res5"])
    return resnet_with_weights(net=net, weights=tmp_path / "resnet18.safetensors")


@pytest.mark.parametrize(
    "backbone",
    [
        lambda _: TimmBackbone("test_resnet"),
        lambda _: TimmBackbone("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
        lambda _: VisionMamba(embed_dim=8, depth=1, img_size=32),
        lambda _: TorchvisionResNet(depth=18),
        torchvision_weights,
    ],
    ids=["timm", "convnext", "mamba", "torchvision", "resnet"],
)
def test_backbones_state_imagenets(backbone, tmp_path):
    net = backbone(tmp_path)
    stated = IMAGENET if "test" not in getattr(net, "model_name", "") else (net.pixel_mean, net.pixel_std)
    frozen = freeze(net)
    check_pixels(Detector(neck(frozen), *map(list, stated)))
    with pytest.raises(ValueError, match=r"pixel_mean=\[1,2,3\].*expects pixel_mean=\["):
        check_pixels(Detector(neck(frozen), [1.0, 2.0, 3.0], [58.395, 57.12, 57.375]))


def test_the_message_names_both_the_backbone_and_what_says_yes():
    vit = TimmViT("vit_tiny_patch16_224", depth=1, embed_dim=8, num_heads=1)
    with pytest.raises(ValueError) as caught:
        check_pixels(Detector(vit, *IMAGENET))
    message = str(caught.value)
    for part in ("vit_tiny_patch16_224", "[123.675,116.28,103.53]", "[127.5,127.5,127.5]"):
        assert part in message
    assert "train.allow_other_pixel_statistics=True" in message and "\n" not in message
    check_pixels(Detector(vit, [127.5] * 3, [127.5] * 3))


@pytest.mark.parametrize(
    ("mean", "std", "input_format", "fits"),
    [
        ([100.0, 110.0, 120.0], [50.0, 51.0, 52.0], "RGB", True),
        ([100.4, 109.6, 120.0], [50.4, 51.0, 51.6], "RGB", True),  # rounded
        ([101.0, 110.0, 120.0], [50.0, 51.0, 52.0], "RGB", False),
        ([100.0, 110.0, 120.0], [50.0, 51.0, 53.0], "RGB", False),
        ([0.392, 0.431, 0.47], [0.196, 0.2, 0.204], "RGB", False),  # of images from 0 to 1
        ([120.0, 110.0, 100.0], [52.0, 51.0, 50.0], "RGB", False),
        ([120.0, 110.0, 100.0], [52.0, 51.0, 50.0], "BGR", True),
        ([100.0, 110.0, 120.0], [50.0, 51.0, 52.0], "BGR", False),
        ([100.0], [50.0], "L", True),  # of other channels nothing is stated
    ],
)
def test_what_is_the_same(mean, std, input_format, fits):
    model = Detector(neck(Stating()), mean, std, input_format)
    if fits:
        check_pixels(model)
        return
    with pytest.raises(ValueError, match="the backbone Stating expects"):
        check_pixels(model)


def test_a_backbone_that_states_nothing_is_taken_as_it_is():
    check_pixels(Detector(nn.Conv2d(3, 8, 3), [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]))
    check_pixels(nn.Conv2d(3, 8, 3))
