#!/usr/bin/env bash
# sahi 0.12.8: Coco.export_as_yolo, slice_coco.
#
# A COCO file with the categories 3 (zebra) and 7 (ant), and a crowd region (iscrowd 1).
#
# One would guess that YOLO's class numbers count from 0 in the order of data.yml's names, as YOLO has them, and that a
# crowd region stays one in COCO and is left out, or warned of, in YOLO.
#
# What happens, without a message:
#   export_as_yolo writes the category ids, 3 and 7, beside `nc: 2` and a list of two names: zebra and ant have
#                  no number 3 and 7. With ids 1 and 2 the first class gets the second one's name.
#   iscrowd        is 0 of all that was read: slice_coco writes the crowd region as an object, export_as_yolo too.
#
# Renumber categories from 0, and take crowd regions out, before sahi reads the file.
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet sahi==0.12.8 opencv-python-headless

cat > try.py <<'PYTHON'
import json
from pathlib import Path

from PIL import Image
from sahi.slicing import slice_coco
from sahi.utils.coco import Coco

Path("pictures").mkdir()
Image.new("RGB", (200, 100)).save("pictures/scene.png")
height, width, box = 100, 200, (100, 10, 80, 60)
x, y, w, h = box
counts = [x * height + y, h] + [height - h, h] * (w - 1)
counts.append(height * width - sum(counts))
crowd = {"size": [height, width], "counts": counts}
content = {
    "images": [{"id": 11, "file_name": "scene.png", "width": width, "height": height}],
    "categories": [{"id": 3, "name": "zebra"}, {"id": 7, "name": "ant"}],
    "annotations": [
        {"id": 1, "image_id": 11, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 2, "image_id": 11, "category_id": 7, "bbox": box, "area": w * h, "iscrowd": 1, "segmentation": crowd},
    ],
}
Path("a.json").write_text(json.dumps(content))

Coco.from_coco_dict_or_path("a.json", "pictures").export_as_yolo("yolo", train_split_rate=1.0)
description = Path("yolo/data.yml").read_text().splitlines()
print("yolo", *[line for line in description if line.startswith(("names", "nc"))])
print("yolo classes", *sorted(line.split()[0] for line in Path("yolo/train/scene.txt").read_text().splitlines()))
sliced, _ = slice_coco(
    "a.json", "pictures", output_coco_annotation_file_name="tiles", output_dir="tiles", slice_height=100, slice_width=100,
    overlap_height_ratio=0, overlap_width_ratio=0,
)
print("tiles (category, iscrowd)", *sorted((a["category_id"], a["iscrowd"]) for a in sliced["annotations"]))
PYTHON
venv/bin/python try.py > seen.txt 2> log.txt || { cat log.txt; exit 1; }
cat seen.txt
diff <(grep -E '^(yolo|tiles)' seen.txt) - <<'SEEN'
yolo names: [zebra, ant] nc: 2
yolo classes 3 7
tiles (category, iscrowd) (3, 0) (7, 0)
SEEN
