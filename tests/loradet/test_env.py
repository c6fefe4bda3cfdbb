"""`python -m loradet.env`."""

import subprocess
import sys
from pathlib import Path

import torch

import detectron2_embedded


def test_it_names_detectron2_and_the_versions():
    done = subprocess.run([sys.executable, "-m", "loradet.env"], capture_output=True, text=True, check=True)
    rows = dict(line.split(None, 1) for line in done.stdout.splitlines())
    kind = "embedded" if detectron2_embedded.is_embedded() else "installed"
    assert rows["detectron2"].startswith(kind)
    assert str(detectron2_embedded.origin()) in rows["detectron2"]
    assert rows["torch"].strip() == torch.__version__
    assert {"timm", "torchvision", "fvcore", "python", "platform"} < set(rows)
    assert any(name.startswith("GPU") for name in rows)
    assert Path(sys.executable).name in rows["python"]
