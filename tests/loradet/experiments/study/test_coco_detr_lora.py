"""The configs and entries of COCO-DETR-LoRA: what trains, and that nothing else differs."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d

from loradet.adapters import parameter_table
from loradet.config import load_config
from loradet.experiments.study.catalogue import load_study
from loradet.experiments.study.reading import read_study

HERE = "configs/coco_detr_lora"
STUDY = load_study("coco_detr_lora")
NAMES = ["fasterrcnn_r50_fpn_baseline", "detr_r50_full", "detr_r50_partial_unfreeze"]
NAMES += [f"detr_r50_lora_only_r{rank}_{where}" for where in ("attn", "attn_ffn") for rank in (4, 8, 16)]
WIDTH, HIDDEN, ATTENTIONS, FEED_FORWARDS = 256, 2048, 18, 12


def heads(classes: int) -> int:
    return (WIDTH + 1) * (classes + 1) + 2 * (WIDTH + 1) * WIDTH + (WIDTH + 1) * 4 + 100 * WIDTH


def stage(fan_in: int, width: int, blocks: int) -> tuple[int, int]:
    """Weights and norm channels of a stage of bottlenecks: 1x1, 3x3, 1x1, and a shortcut in the first."""
    convs, channels = fan_in * 4 * width, 4 * width
    for block in range(blocks):
        convs += (4 * width if block else fan_in) * width + 9 * width**2 + 4 * width**2
        channels += 6 * width
    return convs, channels


STAGES = [stage(64, 64, 3), stage(256, 128, 4), stage(512, 256, 6), stage(1024, 512, 3)]


def resnet50(norms: bool) -> int:
    """Stem and stages; of a trained batch norm two numbers a channel."""
    return 3 * 64 * 49 + sum(convs for convs, _ in STAGES) + norms * 2 * (64 + sum(channels for _, channels in STAGES))


def transformer() -> int:
    attention, norm = 4 * (WIDTH + 1) * WIDTH, 2 * WIDTH
    feed_forward = WIDTH * HIDDEN + HIDDEN + HIDDEN * WIDTH + WIDTH
    return 6 * (attention + feed_forward + 2 * norm) + 6 * (2 * attention + feed_forward + 3 * norm) + norm


def faster_rcnn(classes: int) -> int:
    """All but the ResNet: pyramid of four levels, region proposals of three anchors, two layers of 1024, predictors."""
    pyramid = sum((4 * 64 * 2**i + 1) * WIDTH + (9 * WIDTH + 1) * WIDTH for i in range(4))
    proposals = (9 * WIDTH + 1) * WIDTH + (WIDTH + 1) * 3 * 5
    head = (49 * WIDTH + 1) * 1024 + (1024 + 1) * 1024
    return pyramid + proposals + head + (1024 + 1) * (classes + 1 + 4 * classes)


def expected(name: str, classes: int, norms: bool = True) -> int:
    """What trains; `norms`: whether batch norm does, as it does from random weights."""
    if name == NAMES[0]:
        return resnet50(norms) + faster_rcnn(classes)
    if name.endswith("full"):
        return resnet50(norms) + (2048 + 1) * WIDTH + transformer() + heads(classes)
    if name.endswith("unfreeze"):
        convs, channels = STAGES[-1]
        return convs + norms * 2 * channels + heads(classes)
    rank = int(name.split("_r")[2].split("_")[0])
    delta = ATTENTIONS * 4 * 2 * WIDTH + (FEED_FORWARDS * 2 * (WIDTH + HIDDEN) if name.endswith("ffn") else 0)
    return rank * delta + heads(classes)


def built(name: str, classes: int, **starts: str):
    cfg = load_config(f"{HERE}/{name}.py", [f"{key}={value}" for key, value in starts.items()])
    detector = cfg.model
    while "module" in detector:
        detector = detector.module
    holder = detector if "num_classes" in detector else detector.roi_heads
    holder.num_classes = classes
    return instantiate(cfg.model)


def counted(name: str, classes: int):
    with torch.device("meta"):
        return parameter_table(built(name, classes)).all


@pytest.mark.parametrize("name", NAMES)
def test_what_trains_is_the_closed_formula(name):
    table = counted(name, 80)
    assert table.trainable == expected(name, 80)
    if name in NAMES[:2]:
        assert table.total == table.trainable


def test_the_sizes_that_are_quoted():
    full = counted("detr_r50_full", 10)
    assert full.trainable == full.total == 41_557_071
    assert counted("detr_r50_lora_only_r4_attn", 10).trainable == 147_456 + 161_039 == 308_495
    assert counted("fasterrcnn_r50_fpn_baseline", 80).trainable == 41_699_936 + 53_120  # with Detectron2's, norms


@pytest.mark.parametrize("name", [*NAMES[:3], "detr_r50_lora_only_r4_attn"])
@pytest.mark.parametrize("start", ["init.resnet50", "train.init_checkpoint"])
def test_batch_norm_of_pretrained_weights_neither_trains_nor_drifts(tmp_path, name, start):
    file = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet50().state_dict(), file)
    model = built(name, 80, **{start: str(file)})
    assert parameter_table(model).all.trainable == expected(name, 80, norms=False)
    model.train()
    norms = [module for _, module in model.named_modules() if "BatchNorm" in type(module).__name__]
    assert len(norms) == 53 and all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)


def test_the_study_has_the_nine_experiments_under_their_names():
    assert [entry.id for entry in STUDY.entries] == NAMES
    assert all(entry.config == f"{HERE}/{entry.id}.py" for entry in STUDY.entries)
    assert sorted(f"{HERE}/{name}.py" for name in NAMES) == sorted(
        str(path) for path in Path(HERE).glob("*.py") if path.stem not in ("budget", "regimes", "study")
    )
    for entry in read_study(STUDY).entries:
        assert entry.checks["trainable"] == {"all": expected(entry.id, 80) / 1e6, "classes": 80}
        if "lora" in entry.id:
            rank, targets = re.fullmatch(r".*_r(\d+)_(.*)", entry.id).groups()
            assert (entry.rank, entry.targets) == (int(rank), targets.replace("_", "+"))
            assert (entry.method, entry.alpha) == ("LoRA", 2 * entry.rank)


def test_the_nine_from_imagenet():
    entries = load_study(f"{HERE}/imagenet").entries
    assert [entry.id for entry in entries] == [f"imagenet_{name}" for name in NAMES]
    for entry, name in zip(entries, NAMES):
        assert entry.checks["trainable"] == {"all": expected(name, 80, norms=False) / 1e6, "classes": 80}
        assert load_config(entry.config, entry.overrides).init.resnet50 == "ckpts/resnet50.pth"
        assert set(entry.baselines) < {other.id for other in entries}


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
