#!/usr/bin/env bash
# datumaro 1.13.12 and labelformat 0.1.17 on "CVAT for images 1.1", CVAT's own XML.
#
# A box that was turned in CVAT: on a picture of 200 x 100 pixels, corners (80, 20) and (140, 40), rotation 90 about its
# centre (110, 30). It covers x 100 to 120 and y 0 to 60. Beside it lies a box that was not turned.
#
# One would guess that converters write the upright box around it, XYWH 100 0 20 60, or say that they cannot.
#
# What happens, with status 0:
#   datumaro     reads it as a rotated box, and leaves it out of COCO, YOLO and VOC without a word: one object of two
#   labelformat  reads the corners alone: 80 20 60 20, as if it had not been turned
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet datumaro==1.13.12 opencv-python-headless
# In one of its own: beside lxml, which datumaro needs, it reads XML by that, and refuses CVAT's first line.
python3 -m venv venv_labelformat
venv_labelformat/bin/pip install --quiet labelformat==0.1.17

mkdir -p source/images
venv/bin/python -c 'from PIL import Image; Image.new("RGB", (200, 100)).save("source/images/scene.png")'
cat > source/annotations.xml <<'XML'
<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><name>try</name><size>1</size><mode>annotation</mode>
    <labels><label><name>car</name></label><label><name>ship</name></label></labels></task></meta>
  <image id="0" name="scene.png" width="200" height="100">
    <box label="ship" source="manual" occluded="0" xtl="80" ytl="20" xbr="140" ybr="40" rotation="90" z_order="0"></box>
    <box label="car" source="manual" occluded="0" xtl="10" ytl="20" xbr="40" ybr="40" z_order="0"></box>
  </image>
</annotations>
XML

cat > try.py <<'PYTHON'
import json
from pathlib import Path

import datumaro

data = datumaro.Dataset.import_from("source", "cvat")
print("datumaro reads", *sorted(shape.type.name for item in data for shape in item.annotations))
for format in ("coco_instances", "yolo", "voc_detection"):
    data.export(format, format)
coco = json.loads(next(Path("coco_instances").rglob("*.json")).read_text())["annotations"]
yolo = next(Path("yolo").rglob("scene.txt")).read_text().splitlines()
voc = next(Path("voc_detection").rglob("scene.xml")).read_text().count("<object>")
print("datumaro writes COCO", len(coco), "YOLO", len(yolo), "VOC", voc)
PYTHON
venv/bin/python try.py > seen.txt 2> log.txt || { cat log.txt; exit 1; }
echo "datumaro says" "$(grep -ci rotat log.txt || true)" "lines about it" >> seen.txt
venv_labelformat/bin/labelformat convert --task object-detection --input-format cvat --input-file source/annotations.xml \
    --output-format coco --output-file labelformat.json > log.txt 2>&1 || { cat log.txt; exit 1; }
venv/bin/python - >> seen.txt <<'PYTHON'
import json

boxes = json.load(open("labelformat.json"))["annotations"]
print("labelformat", *[round(value) for box in boxes if box["category_id"] == 2 for value in box["bbox"]])
PYTHON
cat seen.txt
diff seen.txt - <<'SEEN'
datumaro reads bbox rotated_bbox
datumaro writes COCO 1 YOLO 1 VOC 1
datumaro says 0 lines about it
labelformat 80 20 60 20
SEEN
