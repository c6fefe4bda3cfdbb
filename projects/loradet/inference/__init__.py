"""Trained detectors at work: loading them, running them on image files, exporting them."""
