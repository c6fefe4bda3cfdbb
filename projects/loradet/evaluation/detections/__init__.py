"""Detections of a whole data set: collected, numbered, written and read as arrays."""

__all__: list[str] = []
