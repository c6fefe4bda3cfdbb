"""A subset of Detectron2's public interface, enough for the detectors of this repository."""

__version__ = "0.6"
