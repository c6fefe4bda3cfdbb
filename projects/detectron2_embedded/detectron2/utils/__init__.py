"""Logging, events, communication and other helpers."""

from detectron2._subset import missing_names

__getattr__ = missing_names(
    __name__, ["colormap", "develop", "memory", "serialize", "testing", "tracing", "video_visualizer"]
)
