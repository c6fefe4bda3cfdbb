#!/usr/bin/env bash
# label-studio-sdk 2.1.2, its command label-studio-converter.
#
# A rectangle that was turned in Label Studio: on a picture of 200 x 100 pixels, top left corner at (80, 20), 60 wide
# and 20 high, turned by 90 degrees clockwise about that corner. It covers x 60 to 80 and y 20 to 80.
#
# One would guess that every export has the upright box around it, XYWH 60 20 20 60, or says that it cannot.
#
# What happens: three exports of one file give three boxes, and no message.
#   COCO      40 20 40 30: turned in per cent of the sides, not in pixels; right on square pictures alone
#   YOLO, VOC 80 20 60 20: not turned at all
#   YOLO_OBB  the four right corners
# YOLO_OBB is the one to take (and the box around its corners).
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet label-studio-sdk==2.1.2 pillow

mkdir pictures
venv/bin/python -c 'from PIL import Image; Image.new("RGB", (200, 100)).save("pictures/scene.png")'
cat > labels.xml <<'XML'
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image"><Label value="ship"/></RectangleLabels>
</View>
XML
cat > tasks.json <<JSON
[{"id": 1, "data": {"image": "$folder/pictures/scene.png"}, "annotations": [{"id": 1, "completed_by": 1, "result": [{
  "id": "a", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
  "original_width": 200, "original_height": 100, "image_rotation": 0,
  "value": {"x": 40, "y": 20, "width": 30, "height": 20, "rotation": 90, "rectanglelabels": ["ship"]}}]}]}]
JSON
for format in COCO YOLO VOC YOLO_OBB; do
    venv/bin/label-studio-converter export -i tasks.json -c labels.xml -o "$format" -f "$format" \
        --image-dir "$folder/pictures" > "$format.log" 2>&1 || { cat "$format.log"; exit 1; }
done

venv/bin/python - > seen.txt <<'PYTHON'
import json
import xml.etree.ElementTree as ET
from pathlib import Path


def show(name, box):
    print(name, *[round(value) for value in box])


show("COCO", json.load(open("COCO/result.json"))["annotations"][0]["bbox"])
_, cx, cy, w, h = map(float, next(Path("YOLO/labels").glob("*.txt")).read_text().split())
show("YOLO", [200 * (cx - w / 2), 100 * (cy - h / 2), 200 * w, 100 * h])
box = next(Path("VOC/Annotations").glob("*.xml"))
x0, y0, x1, y1 = (float(ET.parse(box).findtext(f".//{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
show("VOC", [x0, y0, x1 - x0, y1 - y0])
corners = [float(value) for value in next(Path("YOLO_OBB/labels").glob("*.txt")).read_text().split()[1:]]
xs, ys = [200 * x for x in corners[::2]], [100 * y for y in corners[1::2]]
show("YOLO_OBB", [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)])
PYTHON
cat seen.txt
diff seen.txt - <<'SEEN'
COCO 40 20 40 30
YOLO 80 20 60 20
VOC 80 20 60 20
YOLO_OBB 60 20 20 60
SEEN
