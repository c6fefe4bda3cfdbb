"""Variants of LoRA, one a file; `lora(variant=…)` picks one."""
