"""What is read off a model's config: right words, and the same as the model that is built from it."""

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from omegaconf import OmegaConf

from loradet.adapters import freeze, lora
from loradet.backbones import TimmBackbone
from loradet.config import describe, load_config
from loradet.errors import UserError
from loradet.model import build_model

TINY = "tests/configs/tiny.py"
BOTTOM_UP = "model.backbone.bottom_up"
ATTENTION = ("self_attn", "multihead_attn")
PUBLISHED = "resnet50.tv_in1k, pretrained"
DINOV3 = "convnext_small.dinov3_lvd1689m, pretrained"
VIT = "vit_large_patch16_dinov3.lvd1689m, pretrained"


@pytest.mark.parametrize(
    ("config", "overrides", "model", "weights", "method", "lora"),
    [
        ("sar_lora_dino/e0001_r50.py", [], "ResNet-50 + FPN + RetinaNet", PUBLISHED, "partly unfrozen", None),
        ("sar_lora_dino/e0003_linear_probe.py", [], "ConvNeXt-S + FPN + RetinaNet", DINOV3, "linear probe", None),
        ("sar_lora_dino/e0019_full.py", [], "ConvNeXt-S + FPN + RetinaNet", DINOV3, "full", None),
        (
            *("sar_lora_dino/e0018_lora_r8_fc2_stage3.py", [], "ConvNeXt-S + FPN + RetinaNet", DINOV3),
            *("LoRA + stage 3 without its wrapped layers", (("mlp.fc2",), 8, 16.0)),
        ),
        (
            *("sar_lora_dino/e1018_lora_r8_fc2_stage3_whole.py", [], "ConvNeXt-S + FPN + RetinaNet", DINOV3),
            *("LoRA + whole stage 3", (("mlp.fc2",), 8, 16.0)),
        ),
        ("crowd_detr/full.py", [], "DINOv3 ViT-L/16 + DETR", VIT, "linear probe", None),
        (
            *("vim_ofat/base.py", [], "ViM-Tiny + SimpleFeaturePyramid + Cascade R-CNN"),
            *("ckpts/vim_tiny_pretrained.pth", "linear probe", None),
        ),
        # LoRA and freezing around the whole detector; of what is unfrozen, heads are no part of the backbone.
        ("coco_detr_lora/detr_r50_full.py", [], "ResNet-50 + DETR", "random", "full", None),
        ("coco_detr_lora/detr_r50_partial_unfreeze.py", [], "ResNet-50 + DETR", "random", "partly unfrozen", None),
        (
            *("coco_detr_lora/detr_r50_lora_only_r4_attn.py", ["init.resnet50=a.pth"], "ResNet-50 + DETR", "a.pth"),
            *("LoRA", (ATTENTION, 4, 8.0)),
        ),
        (
            *("coco_detr_lora/fasterrcnn_r50_fpn_baseline.py", ["init.resnet50=a.pth"]),
            *("ResNet-50 + FPN + Faster R-CNN", "a.pth", "full", None),
        ),
        (
            *("custom_dfine.py", [], "ConvNeXt-Atto + D-FINE", "asset://convnext_atto_synthetic.safetensors"),
            *("LoRA", (("mlp.fc1", "mlp.fc2"), 16, 32.0)),
        ),
    ],
)
def test_configs_say_what_they_are(config, overrides, model, weights, method, lora):
    found = describe(load_config(f"configs/{config}", overrides).model)
    assert (found.model, found.weights, found.method) == (model, weights, method)
    assert (found.targets, found.rank, found.alpha) == (lora or ((), None, None))


def test_a_saved_config_says_the_same(tmp_path):
    cfg = load_config("configs/sar_lora_dino/e1018_lora_r8_fc2_stage3_whole.py", [])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert describe(load_config(str(tmp_path / "config.yaml"), []).model) == describe(cfg.model)


@pytest.mark.parametrize(
    ("words", "method", "trains"),
    [
        ([], "LoRA", lambda name: name.endswith(("lora_a", "lora_b"))),
        (
            [f"{BOTTOM_UP}.module.unfreeze=[stages_3]"],
            "LoRA + stage 3 without its wrapped layers",
            lambda name: "lora_" in name or ("stages_3" in name and ".fc" not in name),
        ),
        (
            [f"{BOTTOM_UP}.module.unfreeze=[stages_3]", f"{BOTTOM_UP}.freeze_base=False"],
            "LoRA + whole stage 3",
            lambda name: "lora_" in name or "stages_3" in name,
        ),
    ],
)
def test_the_method_is_what_trains_in_the_built_model(words, method, trains):
    cfg = load_config(TINY, words)
    assert describe(cfg.model).method == method
    cfg.model.num_classes = 2
    parameters = dict(build_model(cfg.model).backbone.bottom_up.named_parameters())
    assert {name for name, one in parameters.items() if one.requires_grad} == set(filter(trains, parameters))


@pytest.mark.parametrize(
    ("wrap", "method"),
    [
        (lambda net: net, "full"),
        (lambda net: L(freeze)(module=net, unfreeze=[]), "linear probe"),
        (lambda net: L(freeze)(module=net, unfreeze=["stages_2", "stages_3"]), "partly unfrozen"),
    ],
)
def test_without_lora_the_method_is_what_trains_too(wrap, method):
    cfg = load_config(TINY, [])
    cfg.model.num_classes = 2
    cfg.model.backbone.bottom_up = wrap(cfg.model.backbone.bottom_up.module.module)
    found = describe(cfg.model)
    assert (found.method, found.loras) == (method, ())
    parameters = dict(build_model(cfg.model).backbone.bottom_up.named_parameters())
    trains = {name.split(".")[1] for name, one in parameters.items() if one.requires_grad}
    whole = {name.split(".")[1] for name in parameters}
    assert trains == {"full": whole, "linear probe": set(), "partly unfrozen": {"stages_2", "stages_3"}}[method]


def wrapped(net, *calls):
    for targets, rank in calls:
        net = L(lora)(module=net, targets=targets, rank=rank, alpha=2.0 * rank)
    return OmegaConf.create({"model": L(RetinaNet)(backbone=net)}, flags={"allow_objects": True}).model


def test_several_loras_are_told_apart():
    net = L(TimmBackbone)(model_name="regnety_002", weights="some.pth")
    frozen = L(freeze)(module=net, unfreeze=[])
    both = describe(wrapped(frozen, (["conv1"], 4), (["conv2"], 8)))
    assert (both.model, both.weights) == ("regnety_002 + RetinaNet", "some.pth")
    assert [(call.targets, call.rank, call.alpha) for call in both.loras] == [
        (("conv2",), 8, 16.0),
        (("conv1",), 4, 8.0),
    ]
    assert (both.targets, both.rank, both.alpha) == (("conv2", "conv1"), None, None)
    same = describe(wrapped(frozen, (["conv1"], 4), (["conv2"], 4)))
    assert (same.rank, same.alpha, same.method) == (4, 8.0, "LoRA")
    assert describe(wrapped(net, (["conv1"], 4))).method == "LoRA beside a backbone that trains"


@pytest.mark.parametrize(
    ("of", "unfreeze", "method", "unfrozen"),
    [
        ("detector", ["head"], "linear probe", ()),
        ("detector", ["head", "backbone.layer4"], "partly unfrozen", ("backbone.layer4",)),
        # The backbone's own head is a part of it.
        ("backbone", ["head"], "partly unfrozen", ("head",)),
        # A frozen head beside a backbone that trains.
        ("head", [], "partly unfrozen", ()),
    ],
)
def test_what_is_unfrozen_is_told_from_heads(of, unfreeze, method, unfrozen):
    parts = {"backbone": L(TimmBackbone)(model_name="resnet18"), "head": L(RetinaNetHead)(num_anchors=9)}
    if of in parts:
        parts[of] = L(freeze)(module=parts[of], unfreeze=unfreeze)
    model = L(RetinaNet)(**parts)
    found = describe(L(freeze)(module=model, unfreeze=unfreeze) if of == "detector" else model)
    assert (found.model, found.method, found.unfrozen) == ("ResNet-18 + RetinaNet", method, unfrozen)


def test_what_cannot_be_read_is_one_line_that_names_the_key():
    with pytest.raises(UserError, match=r"model is \{'a': 1\}: expected a call"):
        describe(OmegaConf.create({"a": 1}))
    lost = wrapped(L(TimmBackbone)(model_name="resnet18", weights="${init.nowhere}"))
    with pytest.raises(UserError, match=r"model\.backbone\.weights: .*init\.nowhere"):
        describe(lost)
