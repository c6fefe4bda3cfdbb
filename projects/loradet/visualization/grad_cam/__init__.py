"""Where in an image detections come from."""
