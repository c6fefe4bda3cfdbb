"""Metadata of an exported file; they live in `loradet.export.metadata`."""

from loradet.export.metadata import FORMAT, METADATA_FILE, describe, read_metadata

__all__ = ["FORMAT", "METADATA_FILE", "describe", "read_metadata"]
