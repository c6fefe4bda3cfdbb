"""What the keys of `train` do to a run, and configs of Detectron2's own kind."""

import json

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from helpers.train_tool import arguments, lines, reproducible, succeed

QUIET = ["train.eval_splits=[]", "train.checkpointer.period=0"]


def losses(folder):
    return [line["total_loss"] for line in lines(folder)]


def record(folder):
    return json.loads((folder / "run.json").read_text())


def weights(folder, name="model_final.pth"):
    return torch.load(folder / name, weights_only=True)


def test_durations_in_epochs(train_data, tmp_path):
    # 12 of the 14 images have boxes: 3 iterations of 4 an epoch.
    words = ["train.max_iter=3 epochs", "train.eval_period=1 epoch", "train.checkpointer.period=0.5 epochs"]
    succeed(*arguments(train_data, tmp_path, *words, "train.checkpointer.max_to_keep=null"))
    assert record(tmp_path)["iteration"] == 8
    assert [line["iteration"] for line in lines(tmp_path) if "bbox/AP" in line] == [2, 5, 8]
    names = {path.name for path in tmp_path.glob("model_*")}
    assert names == {*(f"model_{i:07d}.pth" for i in (1, 3, 5, 7)), "model_final.pth", "model_best.pth"}


def test_a_rate_that_never_comes_near_what_was_asked_is_a_warning_before_the_start(train_data, tmp_path):
    words = [*QUIET, "train.max_iter=3", "lr_multiplier.iterations=100", "lr_multiplier.max_fraction=1.0"]
    succeed(*arguments(train_data, tmp_path, *words))
    log = (tmp_path / "log.txt").read_text()
    warning = log.index("peaks at 0.000258 (iteration 2 of 3), under half of optimizer.lr=0.001")
    assert warning < log.index("Starting at iteration 0")


def test_a_run_without_evaluation(train_data, tmp_path):
    succeed(*arguments(train_data, tmp_path, *QUIET, "train.max_iter=2"))
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_final.pth"}
    assert (tmp_path / "adapter.safetensors").is_file()
    assert not (tmp_path / "predictions").exists()
    assert record(tmp_path)["status"] == "finished"


@pytest.mark.slow
def test_max_batch_per_gpu_works_accumulation_out(train_data, tmp_path):
    for name, word in {"limit": "train.max_batch_per_gpu=3", "accumulate": "train.accumulate=2"}.items():
        words = [word, *QUIET, "train.max_iter=4", "dataloader.train.total_batch_size=4"]
        succeed(*arguments(train_data, tmp_path / name, *words))
    limit, accumulate = tmp_path / "limit", tmp_path / "accumulate"
    assert [reproducible(line) for line in lines(limit)] == [reproducible(line) for line in lines(accumulate)]
    assert weights(limit)["trainer"]["images_seen"] == 16


@pytest.mark.slow
def test_mixed_precision_comes_near_full_precision(train_data, tmp_path):
    # On smaller images the last level is a single cell, where PyTorch's bf16 convolution gives NaN gradients on CPUs.
    words = [*QUIET, "train.max_iter=4", "data.image_size=128", "data.max_size=160"]
    for name, word in {"full": "train.amp.enabled=False", "bf16": "train.amp.enabled=True"}.items():
        succeed(*arguments(train_data, tmp_path / name, word, *words))
    full, bf16 = losses(tmp_path / "full"), losses(tmp_path / "bf16")
    assert bf16 != full
    assert bf16 == pytest.approx(full, rel=0.03)
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "bf16")["model"].values())


def test_clipping_bounds_the_gradient(train_data, tmp_path):
    words = [*QUIET, "train.max_iter=3", "train.clip_grad.max_norm=0.001"]
    succeed(*arguments(train_data, tmp_path, *words))
    moments = weights(tmp_path)["trainer"]["optimizer"]["state"].values()
    # Adam's first moment is a sum of the clipped gradients, whose weights after 3 steps are 1 - 0.9**3 in all.
    norm = torch.sqrt(sum((state["exp_avg"] ** 2).sum() for state in moments))
    assert 0 < norm <= 0.001 * (1 - 0.9**3) * 1.001
    # What is logged is the norm before clipping.
    assert all(line["grad_norm"] > 0.01 for line in lines(tmp_path))


def test_evaluation_and_best_checkpoint_use_the_averages(train_data, tmp_path):
    words = ["train.ema.enabled=True", "train.ema.decay=0.5", "train.max_iter=6", "train.eval_period=0"]
    succeed(*arguments(train_data, tmp_path, *words, "model.test_score_thresh=0.0"))
    final, best = weights(tmp_path), weights(tmp_path, "model_best.pth")
    averages = final["trainer"]["ema"]["averages"]
    for name, value in averages.items():
        assert torch.equal(best["model"][name], value)
        assert not torch.equal(final["model"][name], value)
    frozen = final["model"].keys() - averages.keys()
    assert all(torch.equal(best["model"][name], final["model"][name]) for name in frozen)


def test_training_starts_from_given_weights(train_data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["train.max_iter=6", *QUIET, "train.checkpointer.period=3", "model.backbone.bottom_up.dropout=0.0"]
    succeed(*arguments(train_data, first, *words))
    checkpoint = f"train.init_checkpoint={first / 'model_final.pth'}"
    succeed(*arguments(train_data, second, *words, checkpoint, "optimizer.lr=0.0"))
    start, end = weights(first)["model"], weights(second)["model"]
    assert all(torch.equal(end[name], value) for name, value in start.items())
    assert record(second)["resumed_at"] is None
    assert [line["iteration"] for line in lines(second)] == list(range(6))


def test_evaluation_takes_the_best_weights_not_those_that_training_started_from(train_data, tmp_path):
    first, second, other_base = tmp_path / "first", tmp_path / "second", "train.seed=5"
    words = ["train.max_iter=1", "train.eval_period=0", "model.test_score_thresh=0.0"]
    succeed(*arguments(train_data, first, *words))
    # The backbone of the second run, which is random in its config, comes from the first one's checkpoint.
    start = f"train.init_checkpoint={first / 'model_final.pth'}"
    succeed(*arguments(train_data, second, *words, start, other_base))
    saved = ["--config-file", str(second / "config.yaml"), "--eval-only"]
    succeed(*saved)
    succeed(*saved, "--checkpoint", str(second / "adapter.safetensors"))
    expected = json.loads((second / "val_metrics.json").read_text())
    for folder in ("eval_model_best", "eval_adapter"):
        metrics = json.loads((second / folder / "val_metrics.json").read_text())
        assert metrics["coco/bbox_mAP"] == pytest.approx(expected["coco/bbox_mAP"], abs=1e-9)
    succeed(*saved, f"train.init_checkpoint={first / 'model_final.pth'}")
    assert (second / "eval_model_final" / "val_metrics.json").is_file()


@pytest.mark.slow
def test_a_run_resumed_at_its_end_is_still_evaluated(train_data, tmp_path):
    words = ["train.eval_period=0", "train.checkpointer.period=2"]
    succeed(*arguments(train_data, tmp_path, *words, "train.eval_splits=[]", "train.max_iter=2"))
    succeed(*arguments(train_data, tmp_path, "--resume", *words, "train.max_iter=2"))
    assert json.loads((tmp_path / "val_metrics.json").read_text())["iteration"] == 1


def test_a_partial_checkpoint_of_other_classes_is_a_start(train_data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    succeed(*arguments(train_data, first, *QUIET, "train.max_iter=1"))
    checkpoint = f"train.init_checkpoint={first / 'model_final.pth'}"
    words = [checkpoint, "data.classes=[ship,car]", "data.name=fewer", "optimizer.lr=0.0"]
    succeed(*arguments(train_data, second, *QUIET, "train.max_iter=1", *words))
    start, end = weights(first)["model"], weights(second)["model"]
    other = {name for name in end if end[name].shape != start[name].shape}
    assert other == {"head.cls_score.weight", "head.cls_score.bias"}
    assert all(torch.equal(end[name], start[name]) for name in end.keys() - other)


@pytest.mark.parametrize(("mode", "iteration"), [("max", 3), ("min", 1)])
def test_the_best_checkpoint_by_a_named_metric(train_data, tmp_path, monkeypatch, mode, iteration):
    scores = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr("loradet.training.assemble.evaluate", lambda *_: {"bbox": {"AP": 0.0, "AP50": next(scores)}})
    words = ["train.max_iter=6", "train.eval_period=2", "train.best.metric=bbox/AP50", f"train.best.mode={mode}"]
    succeed(*arguments(train_data, tmp_path, *words))
    assert weights(tmp_path, "model_best.pth")["iteration"] == iteration
    assert record(tmp_path)["best"]["iteration"] == iteration


def test_early_stopping_is_not_fooled_by_evaluations_without_a_number(train_data, tmp_path, monkeypatch):
    monkeypatch.setattr("loradet.training.assemble.evaluate", lambda *_: {"bbox": {"AP": float("nan")}})
    words = ["train.max_iter=20", "train.eval_period=1", "train.early_stopping.enabled=True"]
    succeed(*arguments(train_data, tmp_path, *words, "train.early_stopping.patience=2"))
    assert record(tmp_path)["iteration"] == 2
    assert record(tmp_path)["best"] == {"metric": "bbox/AP", "value": None, "iteration": 0}


def test_keys_may_be_added(train_data, tmp_path):
    words = ["+dataloader.train.prefetch_factor=1", "++data.note=mine", "train.max_iter=1"]
    succeed(*arguments(train_data, tmp_path, *QUIET, *words))
    text = (tmp_path / "config.yaml").read_text()
    assert "prefetch_factor: 1" in text
    assert "note: mine" in text


DETECTRON2_STYLE = """
import os
from pathlib import Path

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, FPN, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from detectron2.solver import WarmupParamScheduler, get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf

root = Path("ROOT")
for split in ("train", "val"):
    if f"style_{split}" not in DatasetCatalog.list():
        register_coco_instances(
            f"style_{split}", {}, str(root / f"Annotations/{split}.json"), str(root / f"JPEGImages/{split}")
        )

dataloader = OmegaConf.create()
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="style_train"),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=48, max_size=64), L(T.RandomFlip)(horizontal=True)],
        image_format="BGR",
    ),
    total_batch_size=4,
    num_workers=0,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="style_val", filter_empty=False),
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=48, max_size=64)],
        image_format="BGR",
    ),
    num_workers=0,
)
dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")
model = L(RetinaNet)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="FrozenBN"),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features=["res3", "res4", "res5"],
        out_channels=16,
        top_block=L(LastLevelP6P7)(in_channels=512, out_channels="${..out_channels}", in_feature="res5"),
    ),
    head=L(RetinaNetHead)(
        input_shape=[L(ShapeSpec)(channels=16)] * 5,
        num_classes="${..num_classes}",
        conv_dims=[16],
        prior_prob=0.01,
        num_anchors=9,
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in [16, 32, 64, 128, 256]],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
    num_classes=6,
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    pixel_mean=[103.53, 116.28, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
)
optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.001, momentum=0.9, weight_decay=1e-4
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[60000, 90000]),
    warmup_length=0.1,
    warmup_factor=0.001,
)
train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=MAX_ITER,
    amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=100),
    eval_period=2,
    log_period=1,
    device="cuda",
)
"""


@pytest.mark.parametrize("max_iter", [pytest.param("4", marks=pytest.mark.slow), '"1 epoch"'])
def test_a_config_of_detectron2s_own_kind(train_data, tmp_path, max_iter):
    config = tmp_path / "config.py"
    config.write_text(DETECTRON2_STYLE.replace("ROOT", str(train_data)).replace("MAX_ITER", max_iter))
    folder = tmp_path / "out"
    succeed(*arguments(None, folder, "train.allow_random_frozen=True", config=config))
    # 12 images with boxes, 4 a step.
    expected = 4 if max_iter == "4" else 3
    assert [line["iteration"] for line in lines(folder)] == list(range(expected))
    assert json.loads((folder / "test_metrics.json").read_text())["split"] == "test"
    assert (folder / "adapter.safetensors").is_file()
    assert record(folder)["parameters"]["backbone"]["trainable"] > 0
    if max_iter == "4":
        succeed(*arguments(None, folder, "--eval-only", config=config))
        assert (folder / "eval_model_best" / "test_metrics.json").is_file()
        # Its loader cannot be replayed, but the run goes on.
        succeed(*arguments(None, folder, "--resume", "train.max_iter=5", config=config))
        assert [line["iteration"] for line in lines(folder)] == list(range(5))


class OwnEvaluator(DatasetEvaluator):
    """Takes neither data set nor folder, and returns a number of its own."""

    def reset(self):
        self.images = 0

    def process(self, inputs, outputs):  # noqa: ARG002
        self.images += len(inputs)

    def evaluate(self):
        return {"own": {"images": float(self.images)}}


def test_an_evaluator_of_ones_own(train_data, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        DETECTRON2_STYLE.replace("ROOT", str(train_data)).replace("MAX_ITER", "2")
        + f"from {__name__} import OwnEvaluator\ndataloader.evaluator = L(OwnEvaluator)()\n"
    )
    folder = tmp_path / "out"
    words = ["train.best.metric=own/images", "train.allow_random_frozen=True"]
    succeed(*arguments(None, folder, *words, config=config))
    assert record(folder)["best"] == {"metric": "own/images", "value": 4.0, "iteration": 1}
    assert not (folder / "test_metrics.json").exists()
    assert "No COCO metrics of test" in (folder / "log.txt").read_text()
    assert (folder / "adapter.safetensors").is_file()
