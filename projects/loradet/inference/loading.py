"""A trained detector in Python: loaded from a run's folder, called with images."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image, ImageOps

from loradet.config import load_config
from loradet.config.build import build
from loradet.config.device import choose_device
from loradet.config.intensity import with_intensity_of
from loradet.config.overrides import override_words
from loradet.config.splits import evaluation_mapper
from loradet.errors import MissingFileError, UserError
from loradet.evaluation.score_thresholds import ScoreThresholds, choose_thresholds, find_operating_point
from loradet.inference.classes import find_classes
from loradet.inference.image_files import find_images
from loradet.model import load_detector, number_of_classes
from loradet.remote import local_path
from loradet.run_folder import RunFolder
from loradet.views import ViewDetector, ViewMapper, Views

PathLike: TypeAlias = str | os.PathLike[str]
# (H, W), (H, W, 3) RGB or (H, W, 4) RGBA; uint8, or uint16 read by the detector's rule of intensity.
Picture: TypeAlias = np.ndarray | Image.Image

_WHAT = "a file, a folder, a pattern, a Pillow image, an array or a list of these"
# Modes of Pillow that a PNG has not, and where their pixels go without loss of what a detector sees.
_CONVERTED = {"CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB", "RGBX": "RGB", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
_IN_A_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class Predictor:
    """Detects on images as the config's evaluation does: read, resized and thresholded alike.

    Attributes:
        model: in eval mode, LoRA merged.
        classes: names by class number.
        thresholds: scores from which on detections are taken, and where these come from.
    """

    def __init__(self, model: Callable, mapper: Callable, classes: Sequence[str], thresholds: ScoreThresholds):
        self.model = model
        self.classes = list(classes)
        self.thresholds = thresholds
        self._mapper = mapper

    @overload
    def __call__(
        self,
        images: Picture,
        *,
        score_threshold: float | None = None,
        tiles: int | None = None,
        views: Views | None = None,
    ) -> Instances: ...

    @overload
    def __call__(
        self,
        images: PathLike,
        *,
        score_threshold: float | None = None,
        tiles: int | None = None,
        views: Views | None = None,
    ) -> Any: ...

    @overload
    def __call__(
        self,
        images: Sequence[PathLike | Picture] | Iterator[PathLike | Picture],
        *,
        score_threshold: float | None = None,
        tiles: int | None = None,
        views: Views | None = None,
    ) -> list[Instances]: ...

    def __call__(
        self,
        images: PathLike | Picture | Iterable[PathLike | Picture],
        *,
        score_threshold: float | None = None,
        tiles: int | None = None,
        views: Views | None = None,
    ) -> Instances | list[Instances]:
        """Detect on an image, or on several.

        Args:
            images: an array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA of uint8 or uint16, a Pillow image, or a file; a
                list of these; or a folder or pattern, which stands for its images by name (`find_images`).
            score_threshold: 0 to 1, instead of the detector's own.
            tiles: side of the tiles to look at an image in, pixels: `views=Views(tiles=…)`.
            views: tiles, mirrored and resized looks at each image; None: the image as it is.

        Returns:
            Instances on the CPU, by falling score: `pred_boxes` (XYXY, pixels of the image as given, turned upright
            where it has an EXIF tag that says so), `scores`, `pred_classes` and `class_names`; of a list, folder or
            pattern a list of them.

        Raises:
            MissingFileError: there is no such file.
            OSError: a file cannot be read; the message names it.
            UserError: no image, or an array of another shape or type; both `tiles` and `views`.
        """
        if tiles is not None and views is not None:
            raise UserError(f"tiles={tiles} and views were given: say views=Views(tiles={tiles}, …) alone.")
        thresholds = self.thresholds if score_threshold is None else _given(score_threshold)
        views = Views(tiles=tiles) if tiles is not None else views
        if views is None:
            return self._of_any(images, thresholds)
        detector, mapper = ViewDetector(self.model, views), ViewMapper(self._mapper, views)
        return Predictor(detector, mapper, self.classes, self.thresholds)._of_any(images, thresholds)

    def _of_any(
        self, images: PathLike | Picture | Iterable[PathLike | Picture], thresholds: ScoreThresholds
    ) -> Instances | list[Instances]:
        if isinstance(images, (np.ndarray, Image.Image)):
            return self._of_picture(images, thresholds)
        if isinstance(images, (str, os.PathLike)):
            found = [self._of_file(file, thresholds) for file in find_images([images])]
            return found[0] if Path(images).is_file() else found
        if isinstance(images, (torch.Tensor, Mapping)) or not isinstance(images, Iterable):
            raise UserError(f"The predictor was called with {_kind(images)}: expected {_WHAT}.")
        return [self._of_one(image, thresholds) for image in images]

    def _of_one(self, image: PathLike | Picture, thresholds: ScoreThresholds) -> Instances:
        """Of an item of a list."""
        if isinstance(image, (np.ndarray, Image.Image)):
            return self._of_picture(image, thresholds)
        if not isinstance(image, (str, os.PathLike)):
            raise UserError(f"A list of images holds {_kind(image)}: expected files, Pillow images and arrays.")
        if not Path(image).is_file():
            what = "is a folder: give it alone, without a list" if Path(image).is_dir() else "is no file"
            raise MissingFileError(f"A list of images holds {image}, which {what}.")
        return self._of_file(Path(image), thresholds)

    def _of_picture(self, picture: Picture, thresholds: ScoreThresholds) -> Instances:
        """By way of a file without loss, so that it is read as any other."""
        picture = _as_png(picture) if isinstance(picture, Image.Image) else _as_image(picture)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "image.png")
            picture.save(file, compress_level=1)
            return self._of_file(file, thresholds)

    @torch.no_grad()
    def _of_file(self, file: Path, thresholds: ScoreThresholds) -> Instances:
        (result,) = self.model([self._mapper({"file_name": str(file), "image_id": 0})])
        found = result["instances"].to("cpu")
        found = found[thresholds.keep(found)]
        found.class_names = np.array([self.classes[number] for number in found.pred_classes.tolist()], dtype=object)
        return found


def load(
    weights: PathLike,
    config_file: PathLike | None = None,
    *,
    overrides: Sequence[str] = (),
    device: str | None = None,
    score_threshold: float | None = None,
    trusted: bool = False,
) -> Predictor:
    """Load a trained detector.

        predictor = loradet.load("work_dirs/mine")
        found = predictor("image.jpg")  # found.pred_boxes, found.scores, found.class_names

    Args:
        weights: folder of a run, whose best weights are taken; or a checkpoint (`.pth`), or an adapter
            (`.safetensors`), also by URL (`loradet.remote`).
        config_file: that it was trained with; None: `config.yaml` beside the weights.
        overrides: `key=value` words.
        device: "cpu", "cuda", "cuda:1" or "auto"; None: as the config says.
        score_threshold: 0 to 1; None: the operating point of the weights, or 0.3 where they have none.
        trusted: let a `.yaml` call what it likes, see `loradet.config.trust`.

    Raises:
        MissingFileError: there are no weights, or no config.
        UserError: they do not fit together.
    """
    if score_threshold is not None:
        _given(score_threshold)
    checkpoint = _weights_of(local_path(weights))
    config = RunFolder(checkpoint.parent).config if config_file is None else Path(config_file)
    if config_file is None and not config.is_file():
        raise MissingFileError(f"{checkpoint} has no {config.name} beside it: say config_file=….")
    cfg = with_intensity_of(
        load_config(str(config), override_words(overrides), trusted=trusted, needs_data=False), str(checkpoint)
    )
    model = load_detector(cfg, checkpoint, device=choose_device(device or cfg.train.get("device", "auto")), merge=True)
    names = find_classes(cfg, checkpoint, number_of_classes(model)).names
    point = find_operating_point(checkpoint, cfg.train.get("output_dir"))
    mapper = build(evaluation_mapper(cfg), "The mapper")
    return Predictor(model, mapper, names, choose_thresholds(score_threshold, point, names, checkpoint))


def _weights_of(path: Path) -> Path:
    if path.is_file():
        return path
    run = RunFolder(path)
    for file in (run.best, run.path / RunFolder.FINAL, run.adapter):
        if file.is_file():
            return file
    what = "holds no weights" if path.is_dir() else "does not exist"
    raise MissingFileError(f"{path} {what}; expected the folder of a finished run, a .pth or a .safetensors.")


def _given(score_threshold: float) -> ScoreThresholds:
    if not isinstance(score_threshold, (int, float, np.number)) or not 0 <= score_threshold <= 1:
        raise UserError(f"score_threshold={score_threshold!r}: expected a number from 0 to 1.")
    return ScoreThresholds(float(score_threshold), "given")


def _kind(value: Any) -> str:
    return f"an object of type {type(value).__name__}"


def _as_png(picture: Image.Image) -> Image.Image:
    """Upright, in a mode that a PNG has."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "I":  # 32 bits, of which files that Pillow reads so hold 16
        values = np.asarray(picture)
        if not 0 <= values.min() <= values.max() <= np.iinfo(np.uint16).max:
            raise UserError(f"A Pillow image of mode I holds {values.min()} to {values.max()}: expected 0 to 65535.")
        return Image.fromarray(values.astype(np.uint16))
    if picture.mode not in (*_IN_A_PNG, *_CONVERTED):
        raise UserError(f"A Pillow image of mode {picture.mode}: expected {', '.join((*_IN_A_PNG, *_CONVERTED))}.")
    return picture if picture.mode in _IN_A_PNG else picture.convert(_CONVERTED[picture.mode])


def _as_image(array: Any) -> Image.Image:
    usual = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8)
    if not usual or array.dtype not in (np.uint8, np.uint16) or array.size == 0:
        raise UserError(
            f"An image of shape {array.shape} and {array.dtype}: expected (H, W) of uint8 or uint16, or (H, W, 3) RGB "
            "or (H, W, 4) RGBA of uint8. OpenCV's BGR becomes RGB by image[:, :, ::-1]."
        )
    return Image.fromarray(np.ascontiguousarray(array))
