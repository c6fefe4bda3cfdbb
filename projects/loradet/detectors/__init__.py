"""Detectors that Detectron2 does not have."""
