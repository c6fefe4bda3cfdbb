"""Another backbone is one edit: `model_name=resnet18` typed at a config trains, or a line says which key to change."""

import pytest
from helpers.paths import ROOT, TEST_CONFIGS
from helpers.train_tool import arguments, call, lines, succeed

# Of a test's size, with a head of its own; what differs is how the backbone is put in.
SMALL = f"""
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from loradet.backbones import TimmBackbone
_tiny = LazyConfig.load({str(TEST_CONFIGS / "tiny.py")!r})
data, dataloader, train, optimizer, lr_multiplier = (
    _tiny[k] for k in ("data", "dataloader", "train", "optimizer", "lr_multiplier")
)
model = LazyConfig.load({str(ROOT / "configs/common/models")!r} + "/NAME.py").model
train.max_iter = 2
train.eval_splits = []
train.validation_loss.enabled = False
"""
SMALL_HEADS = """
model.backbone.out_channels = 16
model.roi_heads.batch_size_per_image = 16
for _head in model.roi_heads.get("box_heads") or [model.roi_heads.box_head]:
    _head.fc_dims = [16]
for _predictor in model.roi_heads.get("box_predictors") or [model.roi_heads.box_predictor]:
    _predictor.input_shape.channels = 16
"""
SMALL_DETR = """
model.transformer.hidden_dim, model.transformer.dim_feedforward = 32, 32
model.transformer.num_encoder_layers = model.transformer.num_decoder_layers = 1
model.position_embedding.num_pos_feats, model.num_queries = 16, 10
"""
TIMM = 'L(TimmBackbone)(model_name="test_resnet", pretrained=False)'
TINY_NAME = "model.backbone.bottom_up.module.module.model_name=resnet18"


def config(tmp_path, name, lines):
    file = tmp_path / f"{name}.py"
    file.write_text(SMALL.replace("NAME", name) + lines)
    return file


def trains(data, tmp_path, file, *overrides):
    succeed(*arguments(data, tmp_path / "run", *overrides, config=file))
    losses = [line["total_loss"] for line in lines(tmp_path / "run") if "total_loss" in line]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)


@pytest.mark.parametrize(
    ("name", "edit", "override"),
    [
        (
            "retinanet_timm",
            "model.head.conv_dims = [16]\nmodel.backbone.out_channels = 16\n",
            "bottom_up.pretrained=False",
        ),
        ("faster_rcnn_fpn", SMALL_HEADS + f"model.backbone.bottom_up = {TIMM}\n", None),
        ("cascade_rcnn", SMALL_HEADS + f"model.backbone.bottom_up = {TIMM}\n", None),
        (
            "detr",
            SMALL_DETR + f'model.backbone = {TIMM}\nmodel.backbone.out_features = ["stage3"]\n',
            "out_features=[stage2]",
        ),
    ],
)
def test_one_line_of_a_config_and_one_override(name, edit, override, train_data, tmp_path):
    place = "model.backbone" if name == "detr" else "model.backbone.bottom_up"
    words = [f"{place}.model_name=resnet18", *([f"model.backbone.{override}"] if override else [])]
    trains(train_data, tmp_path, config(tmp_path, name, edit), *words)


def test_detectron2s_resnets_have_a_depth(train_data, tmp_path):
    file = config(tmp_path, "faster_rcnn_fpn", SMALL_HEADS + "model.backbone.bottom_up.module.net.stem.norm = 'BN'\n")
    trains(train_data, tmp_path, file, "model.backbone.bottom_up.module.net.stages.depth=18")


@pytest.mark.parametrize("name", ["quickstart", "custom_coco"])
def test_weights_of_the_former_backbone_are_named(name, train_data, tmp_path):
    """Each line says what to change next, until it trains."""
    key = "model.backbone.bottom_up.module.module"
    where = [
        f"data.{split}_{what}={train_data}/{folder}/{split}{end}"
        for split in ("train", "val")
        for what, folder, end in (("json", "Annotations", ".json"), ("images", "JPEGImages", ""))
    ]
    words = [
        *where,
        "data.total_batch_size=2",
        "train.max_iter=2",
        "train.eval_splits=[]",
        "dataloader.train.num_workers=0",
    ]
    words += ["train.validation_loss.enabled=False", "data.image_size=64", "train.log_period=1"]

    def stopped(*more):
        args = arguments(train_data, tmp_path / "run", *words, *more, config=ROOT / f"configs/{name}.py")
        status, stderr = call(*args)
        assert status != 0
        return next(line for line in stderr.splitlines() if line.startswith("error: "))

    message = stopped(TINY_NAME)
    for part in (
        "'resnet18'",
        f"{key}.weights=null",
        f"{key}.pretrained=true",
        "bottom_up.targets",
        "train.init_checkpoint=",
    ):
        assert part in message
    unmatched = stopped(TINY_NAME, f"{key}.weights=null")
    assert "'mlp.fc1' names nothing here" in unmatched
    assert unmatched.endswith("The name is of model.backbone.bottom_up.targets.")
    if name == "quickstart":
        file = ROOT / "configs/quickstart.py"
        more = ["model.backbone.bottom_up.targets=[conv2]", "train.init_checkpoint=", "train.allow_random_frozen=True"]
        trains(train_data, tmp_path, file, *words, TINY_NAME, f"{key}.weights=null", *more)


@pytest.mark.parametrize(
    ("name", "key", "depth"),
    [
        ("faster_rcnn_fpn", "model.backbone.bottom_up.module.model_name", "bottom_up.module.net.stages.depth"),
        ("detr", "model.backbone.module.model_name", "model.backbone.module.depth"),
    ],
)
def test_a_backbone_that_is_not_timms_says_where_its_size_is(name, key, depth, train_data, tmp_path):
    _, stderr = call(*arguments(train_data, tmp_path / "run", f"{key}=resnet18", config=config(tmp_path, name, "")))
    assert depth in stderr and "L(TimmBackbone)" in stderr and stderr.count("\n") == 1


def test_other_pixel_statistics_than_the_backbones_end_it_before_it_begins(train_data, tmp_path):
    words = ["train.max_iter=1", "train.eval_splits=[]", "model.pixel_std=[1,1,1]"]
    status, stderr = call(*arguments(train_data, tmp_path / "run", *words))
    assert status != 0
    assert "pixel_std=[1,1,1], but the backbone convnext_atto expects" in stderr
    assert "pixel_std=[58.395,57.12,57.375]" in stderr
    assert not (tmp_path / "run" / "metrics.json").exists()
    succeed(*arguments(train_data, tmp_path / "run", *words, "train.allow_other_pixel_statistics=True"))
