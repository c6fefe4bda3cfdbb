"""Readers of annotations in their usual layouts: COCO, YOLO and Pascal VOC."""

__all__: list[str] = []
