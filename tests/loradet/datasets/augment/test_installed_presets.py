"""The presets on an installed Detectron2 and on the embedded one: the same samples.

A process has one Detectron2, so each side is a process of its own.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT
from PIL import Image

PROGRAM = """
import json, sys
import loradet
from detectron2.config import instantiate
from detectron2.structures import BoxMode
from loradet.config.load import load_config
from loradet.datasets.loader import build_train_loader
from loradet.datasets.mapper import DetectionMapper

records, found = json.loads(sys.argv[1]), {}
for one in records:
    for annotation in one["annotations"]:
        annotation["bbox_mode"] = BoxMode.XYXY_ABS
for name in ("basic", "multi_scale", "lsj", "photometric", "mosaic"):
    cfg = load_config("custom_coco", [f"data.augment={name}", "data.image_size=48", "data.max_size=80"])
    calls = instantiate(cfg.dataloader.train.mapper.augmentations)
    mapper = DetectionMapper(True, augmentations=calls, image_format="RGB")
    loader = build_train_loader(records, mapper=mapper, total_batch_size=2, num_workers=0, seed=1)
    found[name] = [
        [list(s["image"].shape), s["image"].sum().item(), s["instances"].gt_boxes.tensor.tolist()]
        for batch, _ in zip(loader, range(8))
        for s in batch
    ]
print(json.dumps([sys.modules["detectron2"].__file__, found]))
"""


def samples(side, records):
    environment = {**os.environ, "LORADET_DETECTRON2": side, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(records)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if side == "installed" and done.returncode and "Detectron2" in done.stderr:
        pytest.skip("no Detectron2 is installed beside the embedded one (docs/install.md says how)")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.installed
def test_samples_are_the_same(tmp_path):
    noise, records = np.random.default_rng(0), []
    for number in range(4):
        height, width = 50 + 20 * number, 100 - 10 * number
        file = tmp_path / f"{number}.png"
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
        boxes = [{"bbox": [4.0, 6.5, 40.0, 33.25], "category_id": number, "iscrowd": 0}]
        records.append(
            {"file_name": str(file), "image_id": number, "height": height, "width": width, "annotations": boxes}
        )
    installed, of_installed = samples("installed", records)
    embedded, of_embedded = samples("embedded", records)
    assert installed != embedded
    assert of_installed == of_embedded
    assert all(sum(len(boxes) for _, _, boxes in one) for one in of_embedded.values())
