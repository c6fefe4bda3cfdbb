"""A subset of Detectron2's public interface, enough for the detectors of this repository."""

from detectron2._subset import missing_names

__version__ = "0.6"

__getattr__ = missing_names(__name__, ["setup_environment", "_C", "export", "projects", "tracking"])
