"""Variants of LoRA, which `lora(variant=…)` picks, and adapters of whole blocks: Mona, AdaptFormer; one a file."""

__all__: list[str] = []
