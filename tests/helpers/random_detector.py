"""A tiny detector of 3 classes with random weights that finds many boxes, and images for it."""

import numpy as np
import torch
from PIL import Image

from helpers.paths import TEST_CONFIGS
from loradet.config import load_config
from loradet.model import build_model

CONFIG = str(TEST_CONFIGS / "tiny.py")
NAMES = ["ship", "car", "tank"]


def config(*overrides: str):
    """The tiny config, for images of 192 pixels at least; its data set is nowhere."""
    sizes = ["data.image_size=192", "data.max_size=256", "train.device=cpu"]
    return load_config(CONFIG, ["data.root=/nowhere", f"data.classes=[{','.join(NAMES)}]", *sizes, *overrides])


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with weights that spread its scores; LoRA's deltas are not zero."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.4 / parameter[0].numel() ** 0.5)
    model.head.cls_score.bias.data.fill_(-3.0)
    model.head.bbox_pred.weight.data.mul_(0.3)
    return model.eval()


def detector(*overrides: str, seed: int = 0) -> torch.nn.Module:
    """`config`'s model with random weights."""
    torch.manual_seed(seed)
    return randomize(build_model(config(*overrides).model), seed)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft coloured blotches, RGB uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC))


def tensor(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """The same as (3, H, W)."""
    return torch.from_numpy(picture(height, width, seed).transpose(2, 0, 1).copy())


def assert_same_detections(found, expected, tolerance: float = 1e-4, least: int = 20) -> None:
    """Compare two `Instances`, by falling score."""
    assert len(found) == len(expected) >= least
    assert found.image_size == expected.image_size
    torch.testing.assert_close(found.scores, expected.scores, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=tolerance, rtol=0)
    assert torch.equal(found.pred_classes, expected.pred_classes)
