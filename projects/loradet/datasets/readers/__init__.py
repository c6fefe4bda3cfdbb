"""Readers of annotations in their usual layouts: COCO, YOLO and Pascal VOC."""
