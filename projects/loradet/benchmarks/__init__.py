"""Measurements of time and memory: two sides in turn, and the ratio of their medians."""

__all__: list[str] = []
