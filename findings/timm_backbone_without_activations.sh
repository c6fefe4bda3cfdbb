#!/usr/bin/env bash
# transformers 5.24.0 with timm 1.0.28: RT-DETRv2 on a timm backbone whose batch norms are frozen (the default).
#
# The weights of the detector's backbone go, without one missing or left over, into the same network of timm; both are
# given the same images.
#
# One would guess that both give the same maps: freezing a batch norm in evaluation changes nothing.
#
# What happens: for ResNet they do. RegNet's, EfficientNet's and DenseNet's norms hold the activation that follows them
# (timm's BatchNormAct2d); the library puts a frozen norm without one in their place, so that most activations of the
# network are gone, and its maps have little to do with those of the pretrained weights. Nothing is said.
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 timm==1.0.28 torch torchvision

cat > try.py <<'PYTHON'
import timm
import torch
from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection, TimmBackboneConfig

for name in ("resnet18", "regnetx_002", "efficientnet_b0", "densenet121"):
    torch.manual_seed(0)
    backbone = TimmBackboneConfig(backbone=name, out_indices=[2, 3, 4], use_pretrained_backbone=False)
    model = RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=backbone)).eval()
    theirs = model.model.backbone.model._backbone
    ours = timm.create_model(name, features_only=True, out_indices=[2, 3, 4]).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    missing = ours.state_dict().keys() - theirs.state_dict().keys()
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pairs = list(zip(theirs(images), ours(images), strict=True))
    print(f"{name}: same maps: {all(torch.allclose(a, b, rtol=1e-3, atol=1e-5 * b.abs().max()) for a, b in pairs)}")
PYTHON

cat > expected.txt <<'TEXT'
resnet18: same maps: True
regnetx_002: same maps: False
efficientnet_b0: same maps: False
densenet121: same maps: False
TEXT
venv/bin/python try.py 2>stderr.txt | tee found.txt
diff expected.txt found.txt
