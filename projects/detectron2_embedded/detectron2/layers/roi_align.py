"""Features of a box, sampled from a map: RoIAlign of Mask R-CNN, https://arxiv.org/abs/1703.06870."""

import torch
from torch import nn
from torch.nn.modules.utils import _pair
from torchvision.ops import roi_align

__all__ = ["ROIAlign", "roi_align"]


class ROIAlign(nn.Module):
    """torchvision's `roi_align` with its settings kept in a module."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        """
        Args:
            output_size: (height, width) of the grid that each box is sampled on, or one number for both.
            spatial_scale: 1 / stride of the map: box coordinates are multiplied by it.
            sampling_ratio: samples per cell and direction; 0 takes as many as the cell has pixels, rounded up.
            aligned: a pixel's centre lies at its index plus a half, as in images. Without, the sampling is half
                a pixel off, as in the first implementations.
        """
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Sample boxes.

        Args:
            input: maps (N, C, H, W).
            rois: (R, 5): index of the map in the batch, then XYXY in pixels of the image.

        Returns:
            (R, C, *output_size), in the dtype of `input`.
        """
        assert rois.dim() == 2 and rois.shape[1] == 5, (
            f"Boxes are given as (R, 5), image index first; got shape {tuple(rois.shape)}."
        )
        # A half-precision coordinate is off by whole pixels in a large image: sampling is float32 at least.
        dtype = torch.promote_types(input.dtype, torch.float32)
        sampled = roi_align(
            input.to(dtype),
            rois.to(dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )
        return sampled.to(input.dtype)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
