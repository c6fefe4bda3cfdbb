"""What one GPU does with the project's models, in a few minutes: `loradet benchmark gpu`."""

__all__: list[str] = []
