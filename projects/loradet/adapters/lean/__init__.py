"""LoRA that keeps less for backward: what is cheap is computed again. Numbers are those of the plain code."""

__all__: list[str] = []
