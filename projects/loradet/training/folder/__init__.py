"""What a training does with its run's folder: its record, its lock, what an earlier run has left there."""

__all__: list[str] = []
