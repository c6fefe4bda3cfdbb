"""From the size that the model saw to the size that the user asked for."""

from detectron2._subset import ADVICE, missing_names
from detectron2.structures import Instances


def detector_postprocess(
    results: Instances,
    output_height: int,
    output_width: int,
    mask_threshold: float = 0.5,  # noqa: ARG001
) -> Instances:
    """Detections of one image, rescaled to (output_height, output_width).

    Boxes (`pred_boxes`, else `proposal_boxes`) are scaled and clipped, and those left without area dropped.
    The input stays as it was.

    Args:
        results: detections in the coordinates of `results.image_size`.
        mask_threshold: for masks, which this subset does not have.

    Raises:
        AssertionError: no boxes.
        NotImplementedError: masks or keypoints.
    """
    for field in ("pred_masks", "pred_keypoints"):
        if results.has(field):
            raise NotImplementedError(f"Postprocessing of {field} {ADVICE}")
    height, width = results.image_size
    resized = Instances((output_height, output_width), **results.get_fields())
    field = next((name for name in ("pred_boxes", "proposal_boxes") if resized.has(name)), None)
    assert field is not None, "Detections without pred_boxes or proposal_boxes cannot be resized."
    boxes = resized.get(field).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(resized.image_size)
    resized.set(field, boxes)
    return resized[boxes.nonempty()]


__getattr__ = missing_names(__name__, ["sem_seg_postprocess"])
