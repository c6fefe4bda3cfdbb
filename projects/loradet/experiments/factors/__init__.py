"""Studies of factors: designs, their effects, and the run to make next."""

__all__: list[str] = []
