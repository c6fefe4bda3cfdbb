"""From files and annotation dicts to arrays and `Instances`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2._subset import ADVICE, missing_names
from detectron2.data.catalog import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.file_io import PathManager
from fvcore.transforms.transform import CropTransform, Transform, TransformList
from PIL import Image, ImageOps

# ITU-R BT.601 as in https://en.wikipedia.org/wiki/Y′UV: (Y, U, V) of (R, G, B), all in [0, 1], and back.
_RGB_TO_YUV = np.array(((0.299, 0.587, 0.114), (-0.14713, -0.28886, 0.436), (0.615, -0.51499, -0.10001)))
_YUV_TO_RGB = np.array(((1.0, 0.0, 1.13983), (1.0, -0.39465, -0.58060), (1.0, 2.03211, 0.0)))


class SizeMismatchError(ValueError):
    """An image does not have the size that its record says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:  # noqa: N802
    """A pillow image as an array.

    Args:
        image: pillow image.
        format: "BGR", "YUV-BT.601", a mode of pillow such as "RGB" or "L", or None to keep the image's own.

    Returns:
        (H, W, 3) uint8, or (H, W, 1) for "L"; float64 for "YUV-BT.601", Y in [0, 1].
    """
    if format is not None:
        image = image.convert("RGB" if format in ("BGR", "YUV-BT.601") else format)
    array = np.asarray(image)
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "YUV-BT.601":
        return np.dot(array / 255.0, _RGB_TO_YUV.T)
    if format == "L":
        return array[:, :, np.newaxis]
    return array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """An image (H, W, C) as RGB in [0, 255], for painting.

    Args:
        image: in `format`.
        format: see `convert_PIL_to_numpy`.

    Returns:
        (H, W, 3) uint8; of "BGR" the image's own dtype; of "YUV-BT.601" float64.
    """
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == "YUV-BT.601":
        return np.dot(image, _YUV_TO_RGB.T) * 255.0
    if format == "L":
        image = image[:, :, 0]
    return np.asarray(Image.fromarray(image.astype(np.uint8), mode=None if format == "RGB" else format).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned as its EXIF orientation says.

    Args:
        file_name: path.
        format: see `convert_PIL_to_numpy`.

    Returns:
        (H, W, C) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read or decoded; the message names it.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            image = ImageOps.exif_transpose(Image.open(file))
            image.load()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Image file {file_name} does not exist.") from error
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and more on broken files
        raise OSError(f"Cannot read image file {file_name}: {type(error).__name__}: {error}") from error
    return convert_PIL_to_numpy(image, format)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare an image (H, W, ...) with its record's "width" and "height"; fill them in where absent.

    Raises:
        SizeMismatchError: they differ.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.get("width", width), dataset_dict.get("height", height))
    if expected != (width, height):
        where = dataset_dict.get("file_name", "an image without file_name")
        raise SizeMismatchError(
            f"{where} (image_id {dataset_dict.get('image_id')}) is {width}x{height} (width x height), "
            f"but its record says {expected[0]}x{expected[1]}. Correct width and height of the record; "
            "an EXIF orientation tag swaps the two."
        )
    dataset_dict.setdefault("width", width)
    dataset_dict.setdefault("height", height)


def get_bbox(annotation: dict[str, Any]) -> Any:
    """The box of one annotation as XYXY absolute, of the type that the annotation holds (list or array)."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: Transform | TransformList | Sequence[Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict[str, Any]:
    """Transform the box of one annotation, in place, and clip it to the image.

    Args:
        annotation: with "bbox" and "bbox_mode".
        transforms: what was done to the image.
        image_size: (height, width) after the transforms.
        keypoint_hflip_indices: for keypoints, which are not here; must be None.

    Returns:
        The annotation, its box XYXY absolute.

    Raises:
        NotImplementedError: the annotation has a mask or keypoints.
    """
    unsupported = [key for key in ("segmentation", "keypoints") if key in annotation]
    if unsupported or keypoint_hflip_indices is not None:
        raise NotImplementedError(
            f"Transforming {' and '.join(unsupported) or 'keypoints'} {ADVICE} "
            "For boxes alone, remove these keys from the annotation."
        )
    if isinstance(transforms, (tuple, list)):
        transforms = TransformList(transforms)
    box = transforms.apply_box(np.array([get_bbox(annotation)], dtype=np.float64))[0]
    height, width = image_size
    annotation["bbox"] = np.clip(box, 0, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    return annotation


def annotations_to_instances(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Annotations of one image as ground truth for a model.

    Args:
        annos: with "bbox", "bbox_mode" and "category_id".
        image_size: (height, width).
        mask_format: for masks, which are not here.

    Returns:
        Instances with `gt_boxes` (N, 4) float32 XYXY and `gt_classes` (N,) int64.

    Raises:
        NotImplementedError: an annotation has a mask or keypoints.
    """
    if any("segmentation" in annotation or "keypoints" in annotation for annotation in annos):
        raise NotImplementedError(
            f"Ground truth of masks (mask_format={mask_format!r}) and keypoints {ADVICE} "
            "For boxes alone, remove the keys 'segmentation' and 'keypoints' from the annotations."
        )
    boxes = [get_bbox(annotation) for annotation in annos]
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.as_tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
    instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    return instances


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Remove ground truth whose box is not wider and higher than `box_threshold` pixels.

    Args:
        instances: with `gt_boxes`.
        by_box: look at boxes.
        by_mask: look at masks where there are any; there are none here.
        box_threshold: in pixels.
        return_mask: also return which were kept, (N,) bool.
    """
    if not (by_box or by_mask):
        raise AssertionError("filter_empty_instances: one of by_box and by_mask must be True.")
    kept = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        kept &= instances.gt_boxes.nonempty(threshold=box_threshold)
    instances = instances[kept]
    return (instances, kept) if return_mask else instances


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict[str, Any]
) -> CropTransform:
    """A window at a random place that holds the middle of an annotation's box.

    Args:
        crop_size: (height, width) of the window in pixels.
        image_size: (height, width).
        instance: an annotation with "bbox" and "bbox_mode".

    Raises:
        AssertionError: the box's middle is beyond the image, or the window is larger than the image.
    """
    x0, y0, x1, y1 = get_bbox(instance)
    middle = np.array(((y0 + y1) * 0.5, (x0 + x1) * 0.5))
    crop_size = np.asarray(crop_size, dtype=np.int32)
    image_size = np.asarray(image_size, dtype=np.int32)
    if (middle > image_size).any():
        raise AssertionError(
            f"The middle (y, x) = {tuple(middle.tolist())} of the box {instance['bbox']} is outside of the image of "
            f"(height, width) = {tuple(image_size.tolist())}."
        )
    if (crop_size > image_size).any():
        raise AssertionError(
            f"A window of (height, width) = {tuple(crop_size.tolist())} does not fit into an image of "
            f"{tuple(image_size.tolist())}."
        )
    lowest = np.maximum(np.floor(middle).astype(np.int32) - crop_size, 0)
    highest = np.minimum(image_size - crop_size, np.ceil(middle).astype(np.int32))
    top, left = (np.random.randint(low, high + 1) for low, high in zip(lowest, highest))
    return CropTransform(left, top, *crop_size[::-1].tolist())


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Check that data sets which are used together agree on a metadata value, such as "thing_classes".

    Raises:
        AttributeError: one of them does not have it.
        ValueError: they do not agree.
    """
    if not dataset_names:
        return
    first, *others = dataset_names
    expected = getattr(MetadataCatalog.get(first), key)
    for name in others:
        found = getattr(MetadataCatalog.get(name), key)
        if found != expected:
            raise ValueError(
                f"Data sets that are used together must have the same {key}: {first!r} has {expected!r}, "
                f"{name!r} has {found!r}."
            )


__getattr__ = missing_names(
    __name__,
    [
        "annotations_to_instances_rotated",
        "build_augmentation",
        "build_transform_gen",
        "create_keypoint_hflip_indices",
        "get_fed_loss_cls_weights",
        "transform_keypoint_annotations",
        "transform_proposals",
    ],
)
