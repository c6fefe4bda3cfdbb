"""What the runs of a study have come to, read from their folders: metrics, intervals, dynamics, tables as values."""

__all__: list[str] = []
