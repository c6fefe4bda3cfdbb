"""Outputs of what is frozen, kept per image and view, so that they are computed once."""

__all__: list[str] = []
