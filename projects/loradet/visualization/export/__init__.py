"""All that a model found on a split, as one folder and one archive."""

__all__: list[str] = []
