"""What people read of a study: the report with its sections and plots, the ledger, the model zoo, a comparison."""

__all__: list[str] = []
