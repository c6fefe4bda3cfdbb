"""The configs and entries of COCO-DETR-LoRA: what trains, and that nothing else differs."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from loradet.adapters import parameter_table
from loradet.experiments.catalogue import load_study
from loradet.training.command import load_config

HERE = "configs/coco_detr_lora"
STUDY = load_study("coco_detr_lora")
NAMES = ["fasterrcnn_r50_fpn_baseline", "detr_r50_full", "detr_r50_partial_unfreeze"]
NAMES += [f"detr_r50_lora_only_r{rank}_{where}" for where in ("attn", "attn_ffn") for rank in (4, 8, 16)]
WIDTH, HIDDEN, ATTENTIONS, FEED_FORWARDS = 256, 2048, 18, 12


def heads(classes: int) -> int:
    return (WIDTH + 1) * (classes + 1) + 2 * (WIDTH + 1) * WIDTH + (WIDTH + 1) * 4 + 100 * WIDTH


def last_stage() -> int:
    """layer4 of ResNet-50: three bottlenecks of 1x1, 3x3, 1x1 and a shortcut, two numbers a channel of batch norm."""
    convs = [(1024, 512, 1), (512, 512, 9), (512, 2048, 1), (1024, 2048, 1)]
    convs += 2 * [(2048, 512, 1), (512, 512, 9), (512, 2048, 1)]
    return sum(fan_in * fan_out * taps + 2 * fan_out for fan_in, fan_out, taps in convs)


def expected(name: str, classes: int, total: int) -> int:
    if name.endswith("full"):
        return total
    if name.endswith("unfreeze"):
        return last_stage() + heads(classes)
    rank = int(name.split("_r")[2].split("_")[0])
    delta = ATTENTIONS * 4 * 2 * WIDTH + (FEED_FORWARDS * 2 * (WIDTH + HIDDEN) if name.endswith("ffn") else 0)
    return rank * delta + heads(classes)


def counted(name: str, classes: int):
    cfg = load_config(f"{HERE}/{name}.py", [])
    detector = cfg.model
    while "module" in detector:
        detector = detector.module
    holder = detector if "num_classes" in detector else detector.roi_heads
    holder.num_classes = classes
    with torch.device("meta"):
        return parameter_table(instantiate(cfg.model))


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_trains_is_the_closed_formula(name):
    table = counted(name, 80).all
    assert table.trainable == expected(name, 80, table.total)


def test_the_sizes_that_are_quoted():
    full = counted("detr_r50_full", 10).all
    assert full.trainable == full.total == 41_557_071
    assert counted("detr_r50_lora_only_r4_attn", 10).all.trainable == 147_456 + 161_039 == 308_495
    assert counted("fasterrcnn_r50_fpn_baseline", 80).all.trainable == 41_699_936 + 53_120  # with Detectron2's, norms


def test_the_study_has_the_nine_experiments_under_their_names():
    assert [entry.id for entry in STUDY.entries] == NAMES
    assert all(entry.config == f"{HERE}/{entry.id}.py" for entry in STUDY.entries)
    assert sorted(f"{HERE}/{name}.py" for name in NAMES) == sorted(
        str(path) for path in Path(HERE).glob("*.py") if path.stem not in ("budget", "regimes", "study")
    )
    totals = {"fasterrcnn_r50_fpn_baseline": 41_753_056, "detr_r50_full": 41_557_071 + 70 * (WIDTH + 1)}
    for entry in STUDY.entries:
        trains = totals.get(entry.id) or expected(entry.id, 80, 0)
        assert entry.checks["trainable"] == {"all": trains / 1e6, "classes": 80}
        assert entry.alpha is None or entry.alpha == 2 * entry.rank


@pytest.mark.parametrize("name", NAMES)
def test_only_the_model_differs(name):
    first, other = (load_config(f"{HERE}/{which}.py", []) for which in (NAMES[1], name))
    for part in ("data", "dataloader", "optimizer", "lr_multiplier", "init"):
        assert first[part] == other[part], part
    assert other.train.pop("output_dir") == f"work_dirs/{name}"
    first.train.pop("output_dir")
    assert first.train == other.train


def test_the_budget():
    cfg = load_config(f"{HERE}/detr_r50_full.py", [])
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.optimizer.params.weight_decay_norm) == (1e-4, 1e-4, None)
    assert [instantiate(cfg.lr_multiplier)(where) for where in (0.0, 0.5, 1.0)] == [1.0] * 3
    (_, flip) = cfg.dataloader.train.mapper.augmentations
    assert instantiate(flip).prob == 0.5
    cfg = load_config(f"{HERE}/synthetic/detr_r50_full.py", [])
    assert (cfg.train.max_iter, cfg.dataloader.train.total_batch_size, cfg.data.image_size) == (500, 4, 512)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 1e-4)


def test_batch_norm_trains_from_random_weights_and_not_from_imagenet(tmp_path):
    import torchvision

    file = tmp_path / "resnet50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), file)
    for weights, trains in ((None, True), (file, False)):
        words = [] if weights is None else [f"init.resnet50={weights}"]
        cfg = load_config(f"{HERE}/detr_r50_full.py", [*words, "model.num_classes=10"])
        body = instantiate(cfg.model.backbone).body
        assert any("bn1" in name for name, _ in body.named_parameters()) is trains
