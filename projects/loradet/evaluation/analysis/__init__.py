"""What kinds of errors a detector makes: matching, confusion, precision over recall."""

__all__: list[str] = []
