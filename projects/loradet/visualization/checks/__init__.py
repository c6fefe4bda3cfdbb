"""The page of a data-set check: charts and pictures."""

__all__: list[str] = []
