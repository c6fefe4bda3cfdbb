"""Geometric transforms that fvcore does not have."""

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import Transform
from PIL import Image

_TORCH_MODES = {
    Image.NEAREST: "nearest",
    Image.BILINEAR: "bilinear",
    Image.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """Resize an image of size (h, w) to (new_h, new_w) pixels; `interp` is one of pillow's filters.

    uint8 images go through pillow, whose filters widen with the scale (antialiasing). Other dtypes go through
    `torch.nn.functional.interpolate`, which does not.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        super().__init__()
        self.h = h
        self.w = w
        self.new_h = new_h
        self.new_w = new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W) or (H, W, C).

        Raises:
            AssertionError: the image does not have the size that this transform was made for.
        """
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(
                f"ResizeTransform was made for images of (h, w) = {(self.h, self.w)}, got {img.shape[:2]}."
            )
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return self._resize_with_pillow(img, interp)
        return self._resize_with_torch(img, interp)

    def _resize_with_pillow(self, img: np.ndarray, interp: int) -> np.ndarray:
        one_channel = img.ndim == 3 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if one_channel else img)
        resized = np.asarray(image.resize((self.new_w, self.new_h), interp))
        return resized[:, :, None] if one_channel else resized

    def _resize_with_torch(self, img: np.ndarray, interp: int) -> np.ndarray:
        if interp not in _TORCH_MODES:
            raise ValueError(f"Filter {interp} works on uint8 images only; {img.dtype} takes nearest to bicubic.")
        mode = _TORCH_MODES[interp]
        tensor = torch.from_numpy(np.ascontiguousarray(img))
        planes = tensor[None, None] if img.ndim == 2 else tensor.permute(2, 0, 1)[None]
        align_corners = None if mode == "nearest" else False
        resized = F.interpolate(planes, (self.new_h, self.new_w), mode=mode, align_corners=align_corners)[0]
        return (resized[0] if img.ndim == 2 else resized.permute(1, 2, 0)).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale (N, 2) points (x, y): floating point in place, their dtype kept; integers as float64."""
        if not np.issubdtype(coords.dtype, np.floating):
            coords = coords.astype(np.float64)
        coords[:, 0] *= self.new_w / self.w
        coords[:, 1] *= self.new_h / self.h
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label map (H, W) by nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        """The resize back to (h, w)."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
