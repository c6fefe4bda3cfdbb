"""The training tool on YOLO data."""

import json

import numpy as np
import pytest
from detectron2.config import LazyConfig
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import ROOT, arguments, call, succeed
from PIL import Image

from loradet.adapters import read_adapter
from loradet.evaluation.detections.numbering import recorded_annotations
from loradet.inference.classes import find_classes

CONFIG = TEST_CONFIGS / "tiny_yolo.py"


@pytest.fixture
def description(tmp_path):
    """Two folders of training images, portrait and landscape; the description lies elsewhere."""
    rng = np.random.default_rng(0)
    for split, size, count in (("train", (64, 48), 3), ("more", (30, 40), 3), ("val", (64, 40), 2)):
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / "images" / split / f"{number}.png")
            lines = [f"{number % 2} 0.5 0.5 0.5 0.5", "1 0.2 0.2 0.3 0.3"]
            (tmp_path / "set" / "labels" / split / f"{number}.txt").write_text("\n".join(lines))
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"path: {tmp_path / 'set'}\ntrain: [images/train, images/more]\nval: images/val\n"
        "names: {1: head, 0: person}\nnc: 2\n"
    )
    return path


def words(description, output, *more):
    return arguments(None, output, f"data.data_yaml={description}", *more, config=CONFIG)


def test_detr_trains_and_is_evaluated(description, tmp_path):
    output = tmp_path / "run"
    succeed(*words(description, output))
    metrics = json.loads((output / "val_metrics.json").read_text(encoding="utf-8"))
    assert {"coco/bbox_mAP", "coco/bbox_mAP/person", "coco/bbox_mAP/head"} <= metrics.keys()
    found = output / "predictions" / "val" / "coco_instances_results.json"
    assert str(recorded_annotations(found)) == metrics["annotations"]
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert (run["status"], run["iterations_per_epoch"]) == ("finished", 3)
    assert {split: found["num_images"] for split, found in run["data"].items()} == {"train": 6, "val": 2}
    info, tensors = read_adapter(output / "adapter.safetensors")
    assert info["classes"] == ["person", "head"]
    assert tensors["class_embed.weight"].shape[0] == 3
    cfg = LazyConfig.load(str(output / "config.yaml"))
    assert find_classes(cfg, output / "model_best.pth", 2).names == ["person", "head"]
    cfg.data.classes = ["head"]
    with pytest.raises(ValueError, match=r"trained on the classes person, head; .* has head\."):
        find_classes(cfg, output / "model_best.pth", 2)
    assert find_classes(cfg, "of_another_tool.pth", 1).categories() == [{"id": 2, "name": "head"}]


def test_few_images_and_one_class(description, tmp_path):
    output = tmp_path / "run"
    more = ("data.classes=[head]", "data.max_images.train=2", "data.max_images.val=1", "data.name=yolo_few")
    succeed(*words(description, output, *more))
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert {split: found["num_images"] for split, found in run["data"].items()} == {"train": 2, "val": 1}
    assert read_adapter(output / "adapter.safetensors")[1]["class_embed.weight"].shape[0] == 2


def test_faults_end_the_run_in_one_line_that_names_them(description, tmp_path):
    labels = tmp_path / "set" / "labels"
    (labels / "train" / "0.txt").write_text("0 0.5 0.5 1.5 0.5\n")
    (labels / "more" / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n")
    status, stderr = call(*words(description, tmp_path / "run", "data.name=yolo_faults"))
    assert status == 1
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert f"{labels / 'train' / '0.txt'}, line 1: " in last
    assert f"{labels / 'more' / '1.txt'}, line 2: " in last


def test_polygons_where_the_config_asks_for_them(description, tmp_path):
    (tmp_path / "set" / "labels" / "train" / "0.txt").write_text("0 0.25 0.25 0.75 0.25 0.5 0.5\n")
    status, stderr = call(*words(description, tmp_path / "run", "data.name=yolo_polygons"))
    assert status == 1
    assert "0.txt, line 1: 7 values" in stderr
    assert "data.polygons=true" in stderr
    succeed(*words(description, tmp_path / "run", "data.name=yolo_polygons", "data.polygons=true"))


@pytest.mark.slow
def test_the_config_to_copy_for_a_detr(description, tmp_path):
    more = ("train.max_iter=1", "data.image_size=64", "data.max_size=96", "data.name=copied", "train.device=cpu")
    words = (f"data.data_yaml={description}", f"train.output_dir={tmp_path / 'run'}", *more)
    succeed("--config-file", str(ROOT / "configs" / "custom_detr.py"), *words)
    info, _ = read_adapter(tmp_path / "run" / "adapter.safetensors")
    assert info["classes"] == ["person", "head"]
