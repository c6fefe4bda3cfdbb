"""FPN, the simple feature pyramid and ResNet, against numbers recorded from Detectron2."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, Backbone, ResNet, SimpleFeaturePyramid
from detectron2.modeling.backbone import BasicStem
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from helpers.golden_files import load

pytestmark = pytest.mark.golden


class PassThrough(Backbone):
    """Returns the maps that it is given."""

    def __init__(self, channels: dict[str, int], strides: dict[str, int]) -> None:
        super().__init__()
        self._out_features = list(strides)
        self._out_feature_channels = channels
        self._out_feature_strides = strides

    def forward(self, x):
        return x


def as_dict(shapes: dict[str, ShapeSpec]) -> dict[str, dict]:
    return {name: {"channels": shape.channels, "stride": shape.stride} for name, shape in shapes.items()}


def test_fpn(golden_d2: Path):
    meta, arrays = load(golden_d2 / "fpn.npz")
    bottom_up = PassThrough(meta["channels"], meta["strides"])
    features = {name: arrays[f"feature/{name}"] for name in meta["channels"]}
    for case, spec in meta["cases"].items():
        top, width = spec["top"], spec["out_channels"]
        if top == "maxpool":
            top_block = LastLevelMaxPool()
        elif top is None:
            top_block = None
        else:
            top_block = LastLevelP6P7(meta["channels"].get(top, width), width, in_feature=top)
        fpn = FPN(bottom_up, spec["in_features"], width, spec["norm"], top_block, spec["fuse_type"])
        prefix = f"{case}/w/"
        weights = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        fpn.load_state_dict(weights, strict=True)

        assert fpn.size_divisibility == spec["size_divisibility"]
        assert fpn.padding_constraints == spec["padding_constraints"]
        assert as_dict(fpn.output_shape()) == spec["output_shape"]
        with torch.no_grad():
            outputs = fpn(features)
        assert list(outputs) == spec["out_features"]
        for name, value in outputs.items():
            torch.testing.assert_close(value, arrays[f"{case}/out/{name}"], rtol=1e-5, atol=1e-5)


def test_fpn_errors(golden_d2: Path):
    meta, _ = load(golden_d2 / "fpn.npz")
    bottom_up = PassThrough(meta["channels"], meta["strides"])
    names = {stride: name for name, stride in meta["strides"].items()}
    calls = {
        "fuse_type max": ([names[8]], "max"),
        "strides 8 and 32": ([names[8], names[32]], "sum"),
    }
    assert set(calls) == set(meta["errors"])
    for name, (in_features, fuse_type) in calls.items():
        assert meta["errors"][name][0] == "AssertionError"
        with pytest.raises(AssertionError):
            FPN(bottom_up, in_features, 8, fuse_type=fuse_type)


def build_pyramid(spec: dict) -> SimpleFeaturePyramid:
    name = spec["in_feature"]
    return SimpleFeaturePyramid(
        PassThrough({name: spec["dim"]}, {name: spec["stride"]}),
        name,
        spec["out_channels"],
        spec["scale_factors"],
        top_block=LastLevelMaxPool() if spec["top"] == "maxpool" else None,
        norm=spec["norm"],
        square_pad=spec["square_pad"],
    )


def test_simple_feature_pyramid(golden_d2: Path):
    meta, arrays = load(golden_d2 / "simple_feature_pyramid.npz")
    for case, spec in meta["cases"].items():
        pyramid = build_pyramid(spec)
        prefix = f"{case}/w/"
        weights = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        pyramid.load_state_dict(weights, strict=True)

        assert pyramid.size_divisibility == spec["size_divisibility"]
        assert pyramid.padding_constraints == spec["padding_constraints"]
        assert as_dict(pyramid.output_shape()) == spec["output_shape"]
        with torch.no_grad():
            outputs = pyramid({spec["in_feature"]: arrays[f"feature/{spec['in_feature']}"]})
        assert list(outputs) == spec["out_features"]
        for name, value in outputs.items():
            torch.testing.assert_close(value, arrays[f"{case}/out/{name}"], rtol=1e-5, atol=1e-5)


def test_simple_feature_pyramid_errors(golden_d2: Path):
    meta, arrays = load(golden_d2 / "simple_feature_pyramid.npz")
    spec = meta["cases"]["vitdet"]
    feature = {spec["in_feature"]: arrays[f"feature/{spec['in_feature']}"]}
    changes = {
        "scale factor 3": {"scale_factors": [3.0]},
        "scale factor 4 with norm '' (forward)": {"norm": ""},
        "scale factors 4 and 1": {"scale_factors": [4.0, 1.0]},
    }
    assert set(changes) == set(meta["errors"])
    for name, change in changes.items():
        with pytest.raises(getattr(builtins, meta["errors"][name][0])):
            build_pyramid({**spec, **change})(feature)


def build_resnet(
    depth: int,
    norm: str,
    stride_in_1x1: bool | None = None,
    out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
    freeze_at: int = 0,
) -> ResNet:
    block = {} if stride_in_1x1 is None else {"stride_in_1x1": stride_in_1x1}
    return ResNet(
        BasicStem(in_channels=3, out_channels=64, norm=norm),
        ResNet.make_default_stages(depth, norm=norm, **block),
        out_features=list(out_features),
        freeze_at=freeze_at,
    )


@pytest.fixture(scope="module")
def resnet_keys(golden_d2: Path) -> dict:
    return json.loads((golden_d2 / "resnet_keys.json").read_text(encoding="utf-8"))


def test_resnet_state_dict(resnet_keys):
    for name, expected in resnet_keys["state_dict"].items():
        depth, norm = name.removeprefix("R").split("_")
        with torch.device("meta"):
            model = build_resnet(int(depth), norm)
        assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == expected, name
    for depth, expected in resnet_keys["output_shape"].items():
        with torch.device("meta"):
            model = build_resnet(int(depth), "FrozenBN")
        assert as_dict(model.output_shape()) == expected
        assert model.size_divisibility == resnet_keys["size_divisibility"]
        assert model.padding_constraints == resnet_keys["padding_constraints"]


def test_resnet_freeze_at(resnet_keys):
    for freeze_at, expected in resnet_keys["freeze_at_R50_BN"].items():
        model = build_resnet(50, "BN", freeze_at=int(freeze_at))
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        frozen = [name for name, module in model.named_modules() if isinstance(module, FrozenBatchNorm2d)]
        assert trainable == expected["trainable"]
        assert frozen == expected["frozen_norms"]


def test_resnet_leaves_out_unused_stages(resnet_keys):
    with torch.device("meta"):
        model = build_resnet(50, "BN", out_features=("res2", "res3"))
    children = [name for name, _ in model.named_children()]
    assert children == resnet_keys["modules_when_out_features_are_res2_res3"]


def formula_values(k: int, count: int) -> np.ndarray:
    """Values in [-1, 1) of the k-th tensor of a state dict, as the recording defined them."""
    u = (np.arange(count, dtype=np.uint64) * 2654435761 + (k + 1) * 40503) % 2**32
    u = ((u ^ (u >> np.uint64(15))) * 2246822519) % 2**32
    u = ((u ^ (u >> np.uint64(13))) * 3266489917) % 2**32
    u = u ^ (u >> np.uint64(16))
    return u / 2**32 * 2 - 1


def formula_tensor(k: int, key: str, shape: list[int]) -> torch.Tensor:
    v = formula_values(k, int(np.prod(shape))).reshape(shape)
    if len(shape) == 4:
        v = v * np.sqrt(6 / np.prod(shape[1:]))
    elif key.endswith(".running_var"):
        v = 1 + 0.2 * v
    elif key.endswith(".norm.weight"):
        v = 0.5 + 0.1 * v
    else:
        v = 0.1 * v
    return torch.from_numpy(v.astype(np.float32))


def test_resnet_outputs(golden_d2: Path, resnet_keys):
    meta, arrays = load(golden_d2 / "resnet.npz")
    for k, expected in meta["formula_first_six_values_by_k"].items():
        np.testing.assert_allclose(formula_values(int(k), len(expected)), expected, rtol=1e-12)
    for case, spec in meta["cases"].items():
        model = build_resnet(spec["depth"], spec["norm"], spec["stride_in_1x1"]).eval()
        keys = resnet_keys["state_dict"][f"R{spec['depth']}_{spec['norm']}"]
        weights = {key: formula_tensor(k, key, shape) for k, (key, shape) in enumerate(keys)}
        model.load_state_dict(weights, strict=True)
        for requires_grad in (False, True):  # the two ways of a frozen batch norm
            x = arrays["x"].clone().requires_grad_(requires_grad)
            with torch.set_grad_enabled(requires_grad):
                outputs = model(x)
            for name, value in outputs.items():
                value = value.detach().double()
                assert list(value.shape) == spec["out"][name]
                expected = {part: arrays[f"{case}/{name}/{part}"] for part in ("mean", "std", "channel_mean")}
                torch.testing.assert_close(value.mean(), expected["mean"], rtol=1e-4, atol=0)
                torch.testing.assert_close(value.std(), expected["std"], rtol=1e-4, atol=0)
                scale = float(expected["std"])
                torch.testing.assert_close(
                    value.mean((0, 2, 3)), expected["channel_mean"], rtol=1e-4, atol=1e-4 * scale
                )
                piece = arrays[f"{case}/{name}/slice"]
                torch.testing.assert_close(value[:, :8].float(), piece, rtol=1e-4, atol=1e-4 * scale)
