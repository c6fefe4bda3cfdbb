"""The configs and entries of the crowd study, as its plan has them."""

import pytest
import torch
from detectron2.config import instantiate

from loradet.adapters import parameter_table
from loradet.config import load_config
from loradet.experiments.running.planning import plan
from loradet.experiments.study.catalogue import load_study
from loradet.training.folder.record import config_hash

HERE = "configs/crowd_detr"
NAMES = ["pilot", "full", "without_encoder", "fallback"]
WIDTH, HIDDEN, QUERIES, CLASSES, CHANNELS = 256, 2048, 300, 2, 1024


def config(name: str, *words: str):
    return load_config(f"{HERE}/{name}.py", list(words))


def transformer_and_heads(encoder_layers: int) -> int:
    attention = 4 * (WIDTH + 1) * WIDTH
    feed_forward = (WIDTH + 1) * HIDDEN + (HIDDEN + 1) * WIDTH
    encoder = attention + feed_forward + 2 * 2 * WIDTH
    decoder = 2 * attention + feed_forward + 3 * 2 * WIDTH
    heads = (WIDTH + 1) * (CLASSES + 1) + 2 * (WIDTH + 1) * WIDTH + (WIDTH + 1) * 4 + QUERIES * WIDTH
    return encoder_layers * encoder + 6 * decoder + 2 * WIDTH + heads + (CHANNELS + 1) * WIDTH


@pytest.mark.parametrize(("name", "layers"), [("full", 6), ("without_encoder", 0)])
def test_the_transformer_trains_and_the_backbone_does_not(name, layers):
    cfg = config(name, f"model.num_classes={CLASSES}", "model.backbone.module.pretrained=False")
    with torch.device("meta"):
        table = parameter_table(instantiate(cfg.model))
    assert table.parts["backbone"].trainable == 0
    assert table.all.trainable == transformer_and_heads(layers)
    entry = load_study("crowd_detr").entry(f"crowd_{name}")
    assert entry.checks["trainable"] == {"all": transformer_and_heads(layers) / 1e6, "classes": CLASSES}


def test_the_plan():
    cfg = config("full")
    assert cfg.model.backbone.module.model_name == "vit_large_patch16_dinov3.lvd1689m"
    assert cfg.model.backbone.module.pretrained is True
    assert (cfg.model.num_queries, list(cfg.model.pad_to)) == (300, [960, 1536])
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.train.clip_grad.max_norm) == (1e-4, 1e-4, 0.1)
    assert (cfg.dataloader.train.total_batch_size, cfg.train.max_batch_per_gpu) == (8, 2)
    assert (cfg.train.max_iter, cfg.train.eval_period, cfg.train.checkpointer.period) == (
        "10 epochs",
        "1 epochs",
        "1 epochs",
    )
    assert (cfg.train.checkpointer.max_to_keep, cfg.train.best.metric) == (8, "bbox/AP")
    assert (cfg.train.amp.enabled, cfg.train.amp.dtype) == (True, "auto")
    assert [cfg.dataloader[split].num_workers for split in ("train", "val")] == [8, 8]
    assert cfg.dataloader.val.batch_size == 2
    rate = instantiate(cfg.lr_multiplier)
    assert rate(0.0) < 0.01
    assert rate(0.05) == pytest.approx(0.95)
    assert rate(0.999) < 0.002
    resize, flip, affine, brightness, contrast = map(instantiate, cfg.dataloader.train.mapper.augmentations)
    assert (resize.short_edge_length, resize.max_size, flip.prob) == ((960, 960), 1536, 0.5)
    assert (affine.rotate, affine.shear, affine.translate, affine.scale, affine.prob, affine.min_visible) == (
        *(5.0, 3.0, 0.03),
        (0.9, 1.1),
        *(0.4, 0.1),
    )
    assert (brightness.intensity_min, contrast.intensity_max) == (0.9, 1.1)


def test_what_the_others_change():
    full = config("full")
    for name in NAMES:
        cfg = config(name)
        assert cfg.train.pop("output_dir") == f"work_dirs/crowd_detr_{name}"
        assert cfg.optimizer == full.optimizer
    fallback = config("fallback")
    assert (fallback.data.image_size, fallback.data.max_size, list(fallback.model.pad_to)) == (800, 1333, [800, 1344])
    pilot = config("pilot")
    assert (dict(pilot.data.max_images), pilot.train.max_iter) == ({"train": 10, "val": 10, "test": None}, "1 epochs")


def test_moved_data_leave_the_hash():
    hashes = {config_hash(config("full", *words)) for words in ((), ("data.data_yaml=elsewhere",))}
    assert len(hashes) == 1
    assert config_hash(config("full", "data.name=other")) not in hashes


def test_a_smoke_takes_the_data_that_are_there_and_synthetic_ones_elsewhere(tmp_path, monkeypatch):
    study = load_study("crowd_detr")
    monkeypatch.setenv("CROWD_ROOT", str(tmp_path))
    (without, *_) = plan(study, ["crowd_full"], mode="smoke", root=tmp_path)
    assert without.config.data.data_yaml == "datasets/synthetic_crowd"
    assert without.config.model.backbone.module.model_name == "vit_small_patch16_dinov3"
    (line,) = without.data.commands
    assert {"--layout=yolo", "--max-objects=20", "--train=10", "--val=10", "--style=shapes"} <= set(line)
    (tmp_path / "data.yaml").write_text("names: [person, head]\ntrain: images\nval: images\n")
    (given, *_) = plan(study, ["crowd_full"], mode="smoke", root=tmp_path)
    assert given.config.data.data_yaml == str(tmp_path / "data.yaml")
    assert given.config.model.backbone.module.model_name == "vit_large_patch16_dinov3.lvd1689m"
    assert (given.config.data.max_images.train, given.config.data.max_images.val) == (10, 10)
    assert given.data.commands == []
