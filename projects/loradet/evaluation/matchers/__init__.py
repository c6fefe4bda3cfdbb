"""COCO matching of detections with boxes: the compiled evaluator, and pycocotools, which it must equal."""
