"""Adapter files: written, read strictly, described, compared, and in the layout of PEFT."""

__all__: list[str] = []
