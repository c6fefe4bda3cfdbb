"""Where in an image detections come from."""

__all__: list[str] = []
