"""What checkpoints of a training hold besides weights, and weights that come as pickles."""

__all__: list[str] = []
