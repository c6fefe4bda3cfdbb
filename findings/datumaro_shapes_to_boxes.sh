#!/usr/bin/env bash
# datumaro 1.13.12: the transform shapes_to_boxes on COCO data.
#
# A COCO file with one object that has a polygon and one that has a box alone.
#
# One would guess that shapes_to_boxes, the transform for detectors, leaves two boxes.
#
# What happens: the reader makes two shapes of the first object, its polygon and its box, which share a group. After the
# transform both are boxes, and the exports to YOLO and VOC write the object twice: three boxes, no message. Exporting
# without the transform gives two, and so does COCO's export, which joins groups.
#
# Export COCO data to YOLO or VOC without shapes_to_boxes.
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet datumaro==1.13.12 opencv-python-headless

cat > try.py <<'PYTHON'
import json
from pathlib import Path

import datumaro
from PIL import Image

Path("source/annotations").mkdir(parents=True)
Path("source/images/train").mkdir(parents=True)
Image.new("RGB", (200, 100)).save("source/images/train/scene.png")
triangle = [[100, 10, 180, 10, 180, 70]]
content = {
    "images": [{"id": 11, "file_name": "scene.png", "width": 200, "height": 100}],
    "categories": [{"id": 3, "name": "zebra"}, {"id": 7, "name": "ant"}],
    "annotations": [
        {"id": 1, "image_id": 11, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0,
         "segmentation": []},
        {"id": 2, "image_id": 11, "category_id": 7, "bbox": [100, 10, 80, 60], "area": 2400, "iscrowd": 0,
         "segmentation": triangle},
    ],
}
Path("source/annotations/instances_train.json").write_text(json.dumps(content))

for transform in (False, True):
    folder = "boxes" if transform else "plain"
    data = datumaro.Dataset.import_from("source", "coco")
    if transform:
        data.transform("shapes_to_boxes")
    for format in ("coco_instances", "yolo", "voc_detection"):
        data.export(f"{folder}/{format}", format, save_media=True)
    coco = json.loads(Path(f"{folder}/coco_instances/annotations/instances_train.json").read_text())
    yolo = next(Path(f"{folder}/yolo").rglob("scene.txt")).read_text().splitlines()
    voc = Path(f"{folder}/voc_detection/Annotations/scene.xml").read_text().count("<object>")
    print(folder, "COCO", len(coco["annotations"]), "YOLO", len(yolo), "VOC", voc)
print("category ids", *[category["id"] for category in coco["categories"]])
PYTHON
venv/bin/python try.py > seen.txt 2> log.txt || { cat log.txt; exit 1; }
cat seen.txt
diff seen.txt - <<'SEEN'
plain COCO 2 YOLO 2 VOC 2
boxes COCO 2 YOLO 3 VOC 3
category ids 1 2
SEEN
