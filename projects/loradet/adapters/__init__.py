"""LoRA, freezing and adapter files for any torch model: torch and safetensors only."""

from loradet.adapters.adapter_file import AdapterError, load_adapter, read_adapter, save_adapter
from loradet.adapters.description import describe_adapter
from loradet.adapters.freezing import freeze
from loradet.adapters.injection import lora
from loradet.adapters.layer import AdapterLayer, adapter_layers
from loradet.adapters.lora_layers import LoRAConv2d, LoRALinear
from loradet.adapters.merging import merge, merged_state_dict, unmerge
from loradet.adapters.parameters import ParameterTable, parameter_table
from loradet.adapters.recipe import adapter_state, load_adapter_state

__all__ = [
    "AdapterError",
    "AdapterLayer",
    "LoRAConv2d",
    "LoRALinear",
    "ParameterTable",
    "adapter_layers",
    "adapter_state",
    "describe_adapter",
    "freeze",
    "load_adapter",
    "load_adapter_state",
    "lora",
    "merge",
    "merged_state_dict",
    "parameter_table",
    "read_adapter",
    "save_adapter",
    "unmerge",
]
