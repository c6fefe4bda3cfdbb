"""Vision Mamba against numbers recorded from the official code."""

import json

import pytest
import torch
from helpers.vim_golden import ARGUMENTS, Recorded, close
from safetensors.torch import save_file
from torch import Tensor

from loradet.backbones import VisionMamba
from loradet.backbones.mamba_mixer import RMSNorm
from loradet.backbones.vision_mamba import drop_path_rates, get_vim_lr_decay_rate
from loradet.backbones.vision_mamba_position import resize_position_embedding

pytestmark = pytest.mark.golden

DETECTION = ("vimdet_p8", "vimdet_p16_overlap", "vimdet_rope")


def watch(net: VisionMamba) -> dict[str, Tensor]:
    """What the patch embedding and the blocks give in the next forward pass."""
    seen: dict[str, Tensor] = {}
    net.patch_embed.register_forward_hook(lambda _, __, tokens: seen.update(patch_tokens=tokens))
    for i, layer in enumerate(net.layers):

        def keep(_, inputs, output, i=i):
            if i == 0:
                seen["tokens"] = inputs[0]
            seen[f"block_{i}/hidden"], seen[f"block_{i}/residual"] = output

        layer.register_forward_hook(keep)
    return seen


def assert_gradients(file: Recorded, net: VisionMamba, image: Tensor, extra: dict[str, Tensor] | None = None) -> None:
    gradients = {name: p.grad for name, p in net.named_parameters()} | (extra or {})
    total = float(file["gradnorm_total"])
    norms = file.below("gradnorm/")
    assert norms.keys() == gradients.keys()
    for name, norm in norms.items():
        assert abs(gradients[name].norm() - norm) <= 1e-3 * norm + 1e-5 * total, name
    full = file.below("grad/")
    assert full
    for name, gradient in full.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5 * total, rtol=0, msg=f"{name}: {{}}".format)
    expected = file["grad_in/image_every_4th"]
    torch.testing.assert_close(image.grad[:, :, ::4, ::4], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(image.grad.norm(), file["gradnorm_in/image"].reshape(()), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", DETECTION)
def test_detection_backbone(golden_root, name):
    file = Recorded(golden_root / "vim" / f"{name}.npz")
    net = file.net()
    seen = watch(net)
    image = file["in/image"].clone().requires_grad_()
    (feature,) = net(image).values()
    close(feature, file["out/last_feat_add"])
    expected = {key: x for key, x in file.below("out/").items() if not key.startswith("last_feat")}
    assert expected.keys() == seen.keys()
    if net.rope is not None:  # what the first block gets is turned already
        expected["tokens"] = net.rope(expected["tokens"], net.rope.tables(net.grid))
    for key, x in expected.items():
        close(seen[key], x)
    (feature * file["in/cotangent"]).sum().backward()
    assert_gradients(file, net, image)

    (last_output,) = file.net(last_layer_process="none")(file["in/image"]).values()
    close(last_output, file["out/last_feat_none"])

    args = file.config["args"]
    (shape,) = net.output_shape().values()
    assert shape.channels == args["embed_dim"]
    assert shape.stride == args["stride"]  # the official backbone reports the patch size
    assert (shape.stride == file.config["official_reported_stride"]) == (args["stride"] == args["patch_size"])
    assert list(net.grid) == file.config["grid"]
    rates = drop_path_rates(args["depth"], args["drop_path_rate"])
    assert rates == pytest.approx(file.config["drop_path"])
    assert set(net.state_dict()) == set(file.below("w/"))
    if args.get("if_rope"):
        own = file.net().rope
        rebuilt = VisionMamba(random_weights=True, **{k: v for k, v in args.items() if k in ARGUMENTS}).rope
        for table in ("freqs_cos", "freqs_sin"):
            close(getattr(rebuilt, table), getattr(own, table))


def test_an_image_that_is_not_square(golden_root):
    file = Recorded(golden_root / "vim" / "vim_nonsquare.npz")
    net = file.net()
    norm = RMSNorm(file.config["args"]["embed_dim"], eps=file.config["args"]["norm_epsilon"])
    norm.load_state_dict({"weight": file["w/norm_f.weight"]})
    seen = watch(net)
    image = file["in/image"].clone().requires_grad_()
    (feature,) = net(image).values()
    close(feature, file["out/last_feat_add"])
    for i in range(len(net.layers)):
        close(seen[f"block_{i}/hidden"], file[f"out/block_{i}/hidden"])
        close(seen[f"block_{i}/residual"], file[f"out/block_{i}/residual"])
    tokens = norm(feature.flatten(2).transpose(1, 2))
    close(tokens, file["out/tokens_after_norm_f"])
    (tokens * file["in/cotangent"]).sum().backward()
    assert_gradients(file, net, image, {"norm_f.weight": norm.weight.grad})

    # The same from the embedding of the grid that it was trained on, resized when the image is seen.
    size = [edge * file.config["args"]["patch_size"] for edge in file.config["source_grid"]]
    square = file.net({"pos_embed": file["in/source_pos_embed"]}, img_size=size)
    close(*square(file["in/image"]).values(), file["out/last_feat_add"])


def test_a_class_token_in_the_middle(golden_root):
    file = Recorded(golden_root / "vim" / "vim_cls_mid.npz")
    args = {name: value for name, value in file.config["args"].items() if name in ARGUMENTS}
    net = VisionMamba(random_weights=True, **args).eval()
    weights = file.below("w/")
    net.load_state_dict({k: x for k, x in weights.items() if k.startswith(("layers.", "patch_embed."))}, strict=False)
    norm = RMSNorm(args["embed_dim"], eps=args["norm_epsilon"])
    norm.load_state_dict({"weight": weights["norm_f.weight"]})

    patches = net.patch_embed(file["in/image"])
    close(patches, file["out/patch_tokens"])
    place = file.config["cls_position"]
    token = weights["cls_token"].expand(len(patches), -1, -1)
    tokens = torch.cat((patches[:, :place], token, patches[:, place:]), 1) + weights["pos_embed"]
    close(tokens, file["out/tokens"])
    hidden, residual = net.forward_tokens(tokens, net.grid)
    last = len(net.layers) - 1
    close(hidden, file[f"out/block_{last}/hidden"])
    close(residual, file[f"out/block_{last}/residual"])
    feature = norm(hidden + residual)[:, place]
    close(feature, file["out/cls_feature"])
    close(feature @ weights["head.weight"].T + weights["head.bias"], file["out/logits"])


def test_position_embedding(golden_root):
    file = Recorded(golden_root / "vim" / "pos_embed_interpolation.npz")
    for i, case in enumerate(file.config["official"]):
        extra, source, target = case["extra"], (case["source"],) * 2, (case["target"],) * 2
        before, after = file[f"official/{i}/in"], file[f"official/{i}/out"]
        resized = resize_position_embedding(before[:, extra:], source, target)
        torch.testing.assert_close(resized, after[:, extra:], atol=1e-5, rtol=0)
    for i, case in enumerate(file.config["extension"]):
        source, target = (case["source"],) * 2, tuple(case["target"])
        resized = resize_position_embedding(file[f"extension/{i}/in"], source, target)
        torch.testing.assert_close(resized, file[f"extension/{i}/out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", ["up", "down", "same"])
def test_a_classification_checkpoint(golden_root, tmp_path, target):
    file = Recorded(golden_root / "vim" / "vimdet_load.npz")
    path = tmp_path / "vim.safetensors"
    save_file({name: x.contiguous() for name, x in file.below("ckpt/").items()}, path)
    common = file.config["common"]
    arguments = {name: value for name, value in common.items() if name in ARGUMENTS}
    expected = file.config["targets"][target]
    net = VisionMamba(weights=path, **{**arguments, "img_size": expected["img_size"]}).eval()
    torch.testing.assert_close(net.pos_embed.detach(), file[f"{target}/expected_pos_embed"], atol=1e-5, rtol=0)
    close(*net(file[f"{target}/in/image"]).values(), file[f"{target}/out/last_feat_add"])
    assert set(net.state_dict()) == set(expected["keys_after_loading"])
    official = {*expected["dropped_before_loading"], *expected["unexpected"], "cls_token", "pos_embed[:, 0]"}
    assert set(net.dropped_weights) == official


@pytest.fixture(scope="module")
def tiny(golden_root) -> dict:
    return json.loads((golden_root / "vim" / "vim_tiny_state_dict.json").read_text())


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        (None, {}),
        ("classification_stride8", {"stride": 8}),
        ("classification_with_rope", {"if_rope": True, "if_rope_residual": True}),
    ],
)
@pytest.mark.parametrize("width", ["tiny", "small"])
def test_published_shapes_load(tiny, tmp_path, variant, arguments, width):
    constructor = tiny["constructor"]
    shapes = {key: list(shape) for key, shape in tiny["entries"]}
    if variant:
        differences = tiny["differences_from_entries"][variant]
        shapes |= differences["added"] | differences["other_shape"]
    if width == "small":  # twice the width everywhere: embedding, inner channels, rank of delta
        rank, states, dim = constructor["dt_rank"], constructor["d_state"], constructor["embed_dim"]
        double = {dim: 2 * dim, 2 * dim: 4 * dim, 4 * dim: 8 * dim, rank: 2 * rank}
        double |= {rank + 2 * states: 2 * rank + 2 * states}
        shapes = {
            # Not the number of tokens, though.
            key: [
                n if (key, i) in {("pos_embed", 1), ("rope.freqs_cos", 0), ("rope.freqs_sin", 0)} else double.get(n, n)
                for i, n in enumerate(shape)
            ]
            for key, shape in shapes.items()
        }
    state = {key: torch.full(shape, 0.5, dtype=torch.float16) for key, shape in shapes.items()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "vim.pth")
    embed_dim = constructor["embed_dim"] * (2 if width == "small" else 1)
    with torch.device("meta"):
        net = VisionMamba(random_weights=True, embed_dim=embed_dim, img_size=640, **arguments)
    expected = {key for key in shapes if key not in tiny["drop_for_detection"]}
    assert {key for key in net.state_dict() if not key.startswith("rope.")} == expected
    del net
    loaded = VisionMamba(weights=tmp_path / "vim.pth", embed_dim=embed_dim, img_size=640, **arguments)
    assert all((p == 0.5).all() for name, p in loaded.named_parameters() if name != "pos_embed")
    torch.testing.assert_close(loaded.pos_embed.detach(), torch.full_like(loaded.pos_embed, 0.5))
    assert {"head.weight", "head.bias", "norm_f.weight", "cls_token"} <= set(loaded.dropped_weights)


def test_parameter_counts(tiny):
    counts, sizes = tiny["parameters"], {"img_size": 1024}
    with torch.device("meta"):
        net = VisionMamba(random_weights=True, **sizes)
    assert sum(p.numel() for p in net.parameters()) == counts["detection_1024"]
    assert {sum(p.numel() for p in layer.parameters()) for layer in net.layers} == {counts["per_block"]}
    official = tiny["differences_from_entries"]["detection_1024_cls_token_true"]
    shapes = {key: list(shape) for key, shape in tiny["entries"] if key not in official["absent"]}
    assert {key: list(x.shape) for key, x in net.state_dict().items()} == shapes | official["other_shape"]


@pytest.fixture(scope="module")
def schedule(golden_root) -> dict:
    return json.loads((golden_root / "vim" / "training_schedule.json").read_text())


def test_drop_path_schedule(schedule):
    expected = schedule["drop_path_depth24_rate0_1"]
    assert drop_path_rates(len(expected), 0.1) == pytest.approx(expected)


@pytest.mark.parametrize(("column", "rate"), [("decay_0_837", 0.837), ("decay_0_7", 0.7)])
def test_layer_wise_learning_rates(schedule, column, rate):
    for name, factors in schedule["lr_factor"].items():
        assert get_vim_lr_decay_rate(name, rate, num_layers=24) == pytest.approx(factors[column]), name


def test_parameters_without_weight_decay(schedule):
    names = VisionMamba(random_weights=True, depth=2, embed_dim=16).no_weight_decay()
    recorded = schedule["no_weight_decay"]
    assert {n.rpartition(".")[2] for n in names} == {
        *recorded["detection"],
        *recorded["parameters_flagged_no_weight_decay"],
    }
    assert len(names) == 1 + 2 * len(recorded["parameters_flagged_no_weight_decay"])
