"""COCO matching of detections with boxes: the compiled evaluator, and pycocotools, which it must equal."""

__all__: list[str] = []
