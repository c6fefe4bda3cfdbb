"""Runs an exported detector as Detectron2 runs a model."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from loradet.datasets.images.intensity import Intensity
from loradet.datasets.mapper import DetectionMapper
from loradet.errors import UserError
from loradet.export.batching import check_fits, padded_size, run_in_groups, small_images_named
from loradet.export.classes import Classes
from loradet.export.metadata import read_metadata
from loradet.export.onnx_program import OnnxProgram
from loradet.export.onnx_session import OnnxSession
from loradet.export.resizing import Resizing


class ExportedDetector:
    """Called with Detectron2's list of dicts, returns what a model returns: a dict with `instances` for each image.

    Attributes:
        metadata: as `export_detector` wrote them.
        classes: of the model.
        device: that it runs on.
    """

    def __init__(self, *, program: Callable[..., Sequence[Tensor]], metadata: dict[str, Any], device: torch.device):
        """
        Args:
            program: takes images (N, 3, H, W), and their sizes (N, 2) where `metadata` have that input; returns boxes,
                scores, classes and counts.
            metadata: of the program.
            device: where the program is.
        """
        self.program = program
        self.metadata = metadata
        self.device = device
        self.classes = Classes.of_metadata(metadata)

    @classmethod
    def load(cls, path: str | os.PathLike, *, trusted: bool, device: str | torch.device = "cpu") -> "ExportedDetector":
        """Load a file that `export_detector` wrote.

        `torch.export.load` runs what the file says: it unpickles, and evaluates expressions. So a file may come only
        from someone who may run programs on this machine.

        An `.onnx` file holds data alone: it needs no trust, and onnxruntime.

        Args:
            path: the `.pt2` or `.onnx` file.
            trusted: say that it is from such a source.
            device: to run on.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: `trusted` is False, or the file is of another kind.
        """
        metadata = read_metadata(path)
        if Path(path).suffix == ".onnx":
            session = OnnxSession(Path(path), device=str(device))
            return cls(program=OnnxProgram(session), metadata=metadata, device=torch.device("cpu"))
        if not trusted:
            raise UserError(
                f"{path} was not loaded: an exported model can run any code when it is loaded. Say that you trust "
                "whoever made it (--trust), or take a checkpoint or an adapter, which cannot."
            )
        import loradet.backbones.selective_scan_chunked  # noqa: F401  (its operator may be in the program)

        program = torch.export.load(os.fspath(path))
        device = torch.device(device)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass  # takes seconds

            program = move_to_device_pass(program, device)
        return cls(program=program.module(), metadata=metadata, device=device)

    def mapper(self) -> "CheckedMapper":
        """Reads and resizes images as the training's test images were."""
        resizing = Resizing.from_dict(self.metadata["resize"])
        mapper = DetectionMapper(
            is_train=False,
            augmentations=resizing.augmentations(),
            image_format="RGB",
            intensity=self.metadata.get("intensity", "auto"),  # files of before have none
        )
        return CheckedMapper(mapper=mapper, about=self.metadata["input"])

    @torch.no_grad()
    def __call__(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: a dict per image: `image` (3, h, w) RGB in 0..255; `height` and `width` of the output
                where they differ from the image's.

        Returns:
            A dict per image, whose `instances` hold `pred_boxes`, `scores` and `pred_classes` by falling score.

        Raises:
            UserError: an image that the program does not take, see `loradet.export.batching.check_fits`.
        """
        sizes = [tuple(item["image"].shape[-2:]) for item in batched_inputs]
        return run_in_groups(self._run, batched_inputs, sizes, self.metadata["input"])

    def _run(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        sizes = [tuple(item["image"].shape[-2:]) for item in batched_inputs]
        images = self._batch(batched_inputs, sizes)
        inputs = [images.to(self.device)]
        if "sizes" in self.metadata["input"].get("names", []):
            inputs.append(torch.tensor(sizes, device=self.device))
        name = str(batched_inputs[0].get("file_name", "An image"))
        with small_images_named(self.metadata["input"], images.shape[-2:], name):
            boxes, scores, classes, counts = self.program(*inputs)
        results = []
        for i, (item, size, count) in enumerate(zip(batched_inputs, sizes, counts.tolist())):
            found = Instances(
                size, pred_boxes=Boxes(boxes[i, :count]), scores=scores[i, :count], pred_classes=classes[i, :count]
            )
            height, width = item.get("height", size[0]), item.get("width", size[1])
            results.append({"instances": detector_postprocess(found, height, width)})
        return results

    def _batch(self, items: Sequence[dict[str, Any]], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Images (N, 3, H, W), padded at the right and the bottom with the mean, which is zero once normalised."""
        names = [str(item.get("file_name", "An image")) for item in items]
        height, width = padded_size(self.metadata["input"], sizes, names)
        mean = torch.tensor(self.metadata["pixel_mean"]).view(3, 1, 1)
        batch = mean.expand(len(items), 3, height, width).clone()
        for slot, item, (h, w) in zip(batch, items, sizes):
            slot[:, :h, :w] = item["image"]
        return batch


class CheckedMapper:
    """A mapper that refuses images that a program of fixed size does not take."""

    def __init__(self, *, mapper: DetectionMapper, about: dict[str, Any]):
        """
        Args:
            mapper: reads and resizes.
            about: the metadata's `input`.
        """
        self.mapper = mapper
        self.about = about

    @property
    def intensity(self) -> Intensity:
        """The rule that images are read by."""
        return self.mapper.intensity

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the mapper gives; ValueError for an image that the program does not take."""
        sample = self.mapper(record)
        height, width = sample["image"].shape[-2:]
        check_fits(self.about, (height, width), record["file_name"])
        return sample
