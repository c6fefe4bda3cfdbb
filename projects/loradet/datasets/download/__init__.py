"""Data sets from the network: downloads that go on where they broke off, archives, COCO 2017."""

__all__: list[str] = []
