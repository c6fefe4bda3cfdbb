"""LoRA, freezing and adapter files for any torch model: torch and safetensors only."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.adapters.bank import AdapterBank
    from loradet.adapters.files.adapter_file import AdapterError, load_adapter, read_adapter, save_adapter
    from loradet.adapters.files.description import AdapterSizes, adapter_sizes, describe_adapter
    from loradet.adapters.files.peft_layout import PeftFolder, export_peft
    from loradet.adapters.files.peft_reading import load_peft
    from loradet.adapters.files.run_export import export_run
    from loradet.adapters.freezing import freeze
    from loradet.adapters.injection import lora
    from loradet.adapters.layer import AdapterLayer, adapter_layers
    from loradet.adapters.learning_rates import lora_plus
    from loradet.adapters.lora_attention import LoRAMultiheadAttention
    from loradet.adapters.lora_layers import LoRAConv2d, LoRALinear
    from loradet.adapters.merging import merge, merged_state_dict, unmerge
    from loradet.adapters.parameters import ParameterTable, parameter_table
    from loradet.adapters.recipe import adapter_state, load_adapter_state
    from loradet.adapters.variants.adaptformer import adaptformer
    from loradet.adapters.variants.mona import mona
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "AdapterBank",
    "AdapterError",
    "AdapterLayer",
    "AdapterSizes",
    "LoRAConv2d",
    "LoRALinear",
    "LoRAMultiheadAttention",
    "ParameterTable",
    "PeftFolder",
    "adapter_layers",
    "adapter_sizes",
    "adapter_state",
    "adaptformer",
    "describe_adapter",
    "export_peft",
    "export_run",
    "freeze",
    "load_adapter",
    "load_adapter_state",
    "load_peft",
    "lora",
    "lora_plus",
    "merge",
    "merged_state_dict",
    "mona",
    "parameter_table",
    "read_adapter",
    "save_adapter",
    "unmerge",
]
