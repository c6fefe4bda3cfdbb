"""The OFAT study: every config says what the study's table says, builds without weights, and trains a step."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from loradet.adapters import parameter_table
from loradet.backbones import VisionMamba
from loradet.config import load_config
from loradet.config.edits import without_weights
from loradet.config.initial_weights import initial_weights
from loradet.experiments.running.planning import plan
from loradet.experiments.running.state import inspect
from loradet.experiments.study.catalogue import load_study
from loradet.experiments.study.reading import read_study
from loradet.training.folder.record import config_hash
from loradet.training.plan import iterations, plan_batch

IMAGES = 1271  # of the study's training split
ADAMW = dict(betas=(0.9, 0.999), weight_decay=0.1)
SGD = dict(momentum=0.9, weight_decay=1e-4)
RMSPROP = dict(alpha=0.99, eps=1e-8, weight_decay=1e-4)
OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, ADAMW),
    "SGD": (torch.optim.SGD, SGD),
    "RMSProp": (torch.optim.RMSprop, RMSPROP),
}
# Config: learning rate, batch, optimizer, epochs, iterations, output folder.
TABLE = {
    "baseline_lr0.001_bs8_adamw_ep100": (1e-3, 8, "AdamW", 100, 15_900, "ofat_baseline_lr0.001_bs8_adamw_ep100"),
    "ofat_lr0.01_bs8_adamw_ep100": (1e-2, 8, "AdamW", 100, 15_900, "ofat_lr0.01_bs8_adamw_ep100"),
    "ofat_lr0.005_bs8_adamw_ep100": (5e-3, 8, "AdamW", 100, 15_900, "ofat_lr0.005_bs8_adamw_ep100"),
    "ofat_lr0.001_bs16_adamw_ep100": (1e-3, 16, "AdamW", 100, 8_000, "ofat_lr0.001_bs16_adamw_ep100"),
    "ofat_lr0.001_bs32_adamw_ep100": (1e-3, 32, "AdamW", 100, 4_000, "ofat_lr0.001_bs32_adamw_ep100"),
    "ofat_lr0.001_bs8_sgd_ep100": (1e-3, 8, "SGD", 100, 15_900, "ofat_lr0.001_bs8_sgd_ep100"),
    "ofat_lr0.001_bs8_rmsprop_ep100": (1e-3, 8, "RMSProp", 100, 15_900, "ofat_lr0.001_bs8_rmsprop_ep100"),
    "ofat_lr0.001_bs8_adamw_ep150": (1e-3, 8, "AdamW", 150, 23_850, "ofat_lr0.001_bs8_adamw_ep150"),
    "ofat_lr0.001_bs8_adamw_ep200": (1e-3, 8, "AdamW", 200, 31_800, "ofat_lr0.001_bs8_adamw_ep200"),
    "baseline_lr0.001_bs2_adamw_ep100": (1e-3, 2, "AdamW", 100, 63_600, "ofat_baseline_lr0.001_bs2_adamw_ep100"),
}
SAME_MODEL = ("ofat_lr0.001_bs8_sgd_ep100", "ofat_lr0.001_bs8_rmsprop_ep100")


@cache
def config(name, *overrides):
    return load_config(f"configs/vim_ofat/{name}.py", list(overrides))


def steps(name):
    """Iterations on the study's number of images."""
    cfg = config(name)
    per_epoch = math.ceil(IMAGES / cfg.dataloader.train.total_batch_size)
    return iterations(cfg.train.max_iter, per_epoch, "train.max_iter")


@pytest.fixture(scope="module")
def study():
    return load_study("vim_ofat")


@pytest.mark.parametrize("name", TABLE)
def test_a_config_is_its_row_of_the_table(name):
    lr, batch, optimizer, _, count, folder = TABLE[name]
    cfg = config(name)
    assert steps(name) == count
    assert cfg.dataloader.train.total_batch_size == batch
    assert cfg.train.output_dir == f"work_dirs/{folder}"
    kind, arguments = OPTIMIZERS[optimizer]
    built = instantiate({**cfg.optimizer, "params": [torch.nn.Parameter(torch.zeros(1))]})
    assert type(built) is kind
    found = built.param_groups[0]
    expected = {"lr": lr, **arguments}
    assert {key: tuple(found[key]) if key == "betas" else found[key] for key in expected} == expected


@pytest.mark.parametrize("name", TABLE)
def test_the_rate_warms_up_and_falls_at_70_and_90_percent(name):
    total = steps(name)
    cfg = config(name).copy()
    cfg.train.max_iter = total
    multiplier = instantiate(cfg.lr_multiplier)
    values = [multiplier(i / total) for i in (0, 250, 500, 0.7 * total - 1, 0.7 * total, 0.9 * total - 1, 0.9 * total)]
    assert values == pytest.approx([0.001, 0.5005, 1.0, 1.0, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", TABLE)
def test_every_batch_fits_two_images_at_a_time(name):
    cfg = config(name)
    batch = plan_batch(TABLE[name][1], 1, cfg.train.accumulate, cfg.train.max_batch_per_gpu)
    assert (batch.per_forward, batch.accumulate) == (2, TABLE[name][1] // 2)


@pytest.mark.parametrize("name", TABLE)
def test_what_all_experiments_share(name):
    cfg = config(name)
    assert list(cfg.data.classes) == ["head"]
    assert cfg.data.val_json.endswith("heads/valid/_annotations.coco.json")
    for split in ("train", "val", "test"):
        resize, *others = cfg.dataloader[split].mapper.augmentations
        assert (resize._target_, list(resize.shape)) == (T.Resize, [640, 640])
        assert [flip._target_ for flip in others] == ([T.RandomFlip] if split == "train" else [])
    assert cfg.dataloader.train.dataset.filter_empty is False
    net = cfg.model.backbone.net
    assert (net.module._target_, list(net.unfreeze)) == (VisionMamba, [])
    assert (net.module.weights, net.module.random_weights) == ("ckpts/vim_tiny_pretrained.pth", False)
    assert (net.module.embed_dim, net.module.depth, net.module.img_size) == (192, 24, 640)
    train = cfg.train
    assert (train.best.metric, train.best.mode, train.eval_period) == ("bbox/AP50", "max", "1 epochs")
    assert list(train.eval_splits) == ["val", "test"]


def expected_counts():
    """Trainable parameters by part for one class, worked out by hand from the widths."""
    wide, tiny, norm = 256, 192, 2 * 256

    def level(dim):
        return dim * wide + norm + 9 * wide * wide + norm

    up = 4 * tiny * (tiny // 2) + tiny // 2
    finest = up + 2 * (tiny // 2) + 4 * (tiny // 2) * (tiny // 4) + tiny // 4 + level(tiny // 4)
    neck = finest + up + level(tiny // 2) + 2 * level(tiny)
    rpn = 2 * (9 * wide * wide + wide) + (wide + 1) * 3 * (1 + 4)
    box_head = 4 * (9 * wide * wide + norm) + (49 * wide + 1) * 1024 + (1024 + 1) * (2 + 4)
    return {"backbone": 0, "neck": neck, "head": rpn + 3 * box_head, "all": neck + rpn + 3 * box_head}


def test_the_full_model_builds_and_trains_neck_and_heads_alone(study):
    name = "baseline_lr0.001_bs8_adamw_ep100"
    model = instantiate(without_weights(config(name).model))
    counts = {part: count["trainable"] for part, count in parameter_table(model).to_dict().items()}
    assert counts == expected_counts()
    assert list(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    for entry in study.entries:
        checked = dict(entry.checks["trainable"])
        assert checked.pop("classes") == 1
        assert checked == pytest.approx({part: count / 1e6 for part, count in counts.items()}, abs=0.0005)


@pytest.mark.parametrize("optimizer", ["ofat_baseline_lr0.001_bs8_adamw_ep100", *SAME_MODEL])
def test_a_step_of_the_tiny_variant(optimizer, study):
    """The others differ in numbers only, which the tests above look at."""
    (run,) = plan(study, [optimizer], mode="smoke")
    cfg = run.config
    net = cfg.model.backbone.net.module
    assert (net.weights, cfg.train.allow_random_frozen, cfg.data.image_size) == (None, True, 128)
    torch.manual_seed(0)
    cfg.data.classes = ["a", "b"]
    model = instantiate(cfg.model).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    frozen = {key: p.detach().clone() for key, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(key.startswith("backbone.net.") for key in frozen)
    with EventStorage():
        losses = model(_images(2))
    sum(losses.values()).backward()
    assert {f"loss_cls_stage{stage}" for stage in range(3)} <= losses.keys()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert [key for key, p in trained.items() if p.grad is None] == []
    before = {key: p.detach().clone() for key, p in trained.items()}
    optimizer.step()
    assert all(torch.equal(p, frozen[key]) for key, p in model.named_parameters() if key in frozen)
    assert any(not torch.equal(p, before[key]) for key, p in trained.items())


@pytest.mark.slow
def test_a_step_of_the_full_model():
    """640x640, one class, all of ViM-Tiny and the cascade; about a minute on a CPU core."""
    cfg = config("baseline_lr0.001_bs8_adamw_ep100")
    torch.manual_seed(0)
    model = instantiate(without_weights(cfg.model)).train()
    optimizer = instantiate({**cfg.optimizer, "params": [p for p in model.parameters() if p.requires_grad]})
    with EventStorage():
        losses = model(_images(1, side=640, classes=1))
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, p in model.named_parameters():
        assert p.requires_grad is not name.startswith("backbone.net.")
        assert (p.grad is not None) is p.requires_grad, name
        assert torch.isfinite(p).all(), name


def _images(count, side=128, classes=2):
    noise = np.random.default_rng(0)
    batch = []
    for _ in range(count):
        instances = Instances((side, side))
        instances.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 70.0], [64.0, 30.0, 120.0, 90.0]]))
        instances.gt_classes = torch.tensor([0, classes - 1])
        pixels = torch.from_numpy(noise.uniform(0, 255, (3, side, side)).astype(np.float32))
        batch.append({"image": pixels, "instances": instances})
    return batch


def test_entries_have_the_study_s_names_and_levels(study):
    assert [Path(entry.config).stem for entry in study.entries] == list(TABLE)
    for entry in read_study(study).entries:
        lr, batch, optimizer, epochs, _, folder = TABLE[Path(entry.config).stem]
        assert entry.id == folder
        assert entry.factors == {"lr": lr, "batch": batch, "optimizer": optimizer, "epochs": epochs}
        assert entry.baselines == (() if entry.id == study.entries[0].id else (study.entries[0].id,))


def test_a_missing_checkpoint_is_an_error_that_names_it(tmp_path):
    cfg = config("baseline_lr0.001_bs8_adamw_ep100", f"model.backbone.net.module.weights={tmp_path / 'no.pth'}")
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        instantiate(cfg.model.backbone.net)


def test_the_factorial_has_every_combination(tmp_path):
    study = read_study(load_study("vim_ofat/mini"))
    cells = [tuple(entry.factors.values()) for entry in study.entries]
    optimizers = ("AdamW", "SGD", "RMSProp")
    assert cells == [(lr, batch, o) for lr in (1e-3, 1e-2) for o in optimizers for batch in (8, 32)]
    assert list(study.entries[0].factors) == ["lr", "batch", "optimizer"]
    for entry in (study.entries[i] for i in (0, 3, 10)):  # each optimizer, rate and batch size
        (run,) = plan(study, [entry.id], seeds=[0], root=tmp_path)
        levels, cfg = run.entry.factors, run.config
        kind, arguments = OPTIMIZERS[levels["optimizer"]]
        node = cfg.optimizer
        assert (node._target_, node.lr) == (kind, levels["lr"])
        assert {key: tuple(node[key]) if key == "betas" else node[key] for key in arguments} == arguments
        assert cfg.dataloader.train.total_batch_size == levels["batch"]
        # The number of images that a run sees is the same for every batch size.
        assert cfg.train.max_iter == "1 epochs"


def test_runs_say_that_they_started_from_random_weights(study, tmp_path):
    (run,) = plan(study, [study.entries[0].id], mode="smoke", root=tmp_path)
    assert initial_weights(run.config) == {"initial_weights": "random"}
    assert initial_weights(config("baseline_lr0.001_bs8_adamw_ep100")) == {}
    started = config("baseline_lr0.001_bs8_adamw_ep100", "train.init_checkpoint=whole.pth")
    assert initial_weights(started) == {}
    run.folder.mkdir(parents=True)
    record = {"status": "finished", "config_sha256": config_hash(run.config), "initial_weights": "random"}
    (run.folder / "run.json").write_text(json.dumps(record))
    metrics = {"coco/bbox_mAP": 0.0, "coco/bbox_mAP_50": 0.0, "initial_weights": "random"}
    (run.folder / "smoke_metrics.json").write_text(json.dumps(metrics))
    result = inspect(run)
    # The check of trainable parameters is one of the full model: a smoke run's is smaller.
    assert (result.state, result.detail) == ("finished", "started from random weights")
    strict = replace(run, study=replace(study, smoke=replace(study.smoke, other_model=False)))
    assert inspect(strict).state == "failed"
    assert "check trainable" in inspect(strict).detail


def test_a_stand_in_has_classes_of_its_own(study, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (absent,) = plan(study, [study.entries[0].id], mode="smoke", root=tmp_path)
    assert absent.config.data.classes is None
    assert absent.data.scenes.layout == "roboflow"
    annotations = tmp_path / "heads" / "train" / "_annotations.coco.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_text('{"images": [], "annotations": [], "categories": []}')
    (there,) = plan(study, [study.entries[0].id], mode="smoke", root=tmp_path)
    assert list(there.config.data.classes) == ["head"]
    assert there.data.scenes is None
