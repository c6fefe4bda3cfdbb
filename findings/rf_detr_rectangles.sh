#!/usr/bin/env bash
# transformers 5.24.0: RF-DETR's own backbone (RfDetrDinov2Backbone, windows of patches) on images that are not square.
#
# The layers are switched off (layer scales of zero), so that each place of the feature map depends on the patch of its
# own place alone. Then one patch of the image changes: which place of the map does?
#
# One would guess: the same place. The backbone accepts every size that its windows divide, and the map has the right
# shape.
#
# What happens: of a square image it is the same place. Of a wider or a higher one patches come back elsewhere in the map
# (row 0, column 2 at row 0, column 4), without a word: windows are taken apart and put together again with rows and
# columns exchanged. A detector on it is fine as long as all its images are resized to squares.
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 torch

cat > try.py <<'PYTHON'
import torch
from transformers import RfDetrDinov2Backbone, RfDetrDinov2Config

sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
net = RfDetrDinov2Backbone(RfDetrDinov2Config(**sizes, num_windows=2, out_features=["stage2"])).eval()
for name, parameter in net.named_parameters():
    if name.endswith("lambda1"):
        parameter.data.zero_()

for height, width in ((64, 64), (32, 64), (64, 32)):
    found = []
    for row, column in ((0, 0), (0, 2), (1, 2), (3, 3)):
        image = torch.zeros(2, 3, height, width)
        image[1, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
        with torch.no_grad():
            plain, changed = net(image).feature_maps[0]
        places = (plain - changed).abs().sum(0).nonzero().tolist()
        found.append(f"({row},{column}) " + " ".join(f"-> ({r},{c})" for r, c in places))
    print(f"{height} x {width}:", "  ".join(found))
PYTHON

cat > expected.txt <<'TEXT'
64 x 64: (0,0) -> (0,0)  (0,2) -> (0,2)  (1,2) -> (1,2)  (3,3) -> (3,3)
32 x 64: (0,0) -> (0,0)  (0,2) -> (0,4)  (1,2) -> (1,4)  (3,3) -> (3,5)
64 x 32: (0,0) -> (0,0)  (0,2) -> (1,0)  (1,2) -> (1,2)  (3,3) -> (3,3)
TEXT
venv/bin/python try.py | tee found.txt
diff expected.txt found.txt
