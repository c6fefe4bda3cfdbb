"""Searches learning rates, ranks and other values of a config: points are asked of Optuna, trials are ordinary runs."""

__all__: list[str] = []
