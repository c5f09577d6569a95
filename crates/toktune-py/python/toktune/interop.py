"""Objects of torch, transformers and PEFT. None of the three is imported unless such an object comes."""

from __future__ import annotations

import json
import sys
from typing import Any

from . import _toktune
from .errors import InputError
from .modeling import PreTrainedModel

# what torch's types are called in files
_TYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}


def is_module(of: Any) -> bool:
    """Whether it is a module of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(of, torch.nn.Module)


def engine_model(model: Any) -> PreTrainedModel:
    """A model object of transformers, taken where it lies.

    Raises:
        TypeError: it is none, is on another device, or PEFT has wrapped it.
    """
    if not is_module(model) or not hasattr(model, "config"):
        raise TypeError(f"expected a model of toktune or of transformers, or a path, found {type(model).__name__}")
    if hasattr(model, "peft_config"):
        raise TypeError(
            "the model has adapters of PEFT already: give toktune the model beneath, model.unload(), and the configuration; "
            "adapters that are saved load by toktune.PeftModel.from_pretrained"
        )
    import torch

    tensors, places = [], []
    for name, tensor in model.state_dict().items():
        if tensor.device.type != "cpu":
            raise TypeError(f"{name} is on {tensor.device}: expected a model that lies on the CPU")
        kind = _TYPES.get(str(tensor.dtype), str(tensor.dtype))
        flat = tensor.detach().contiguous().reshape(-1)
        if flat.data_ptr() == tensor.data_ptr():
            places.append((tensor, tensor.data_ptr()))
        tensors.append((name, kind, list(tensor.shape), flat.view(torch.uint8).numpy()))
    config = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [type(model).__name__]
    name = getattr(model, "name_or_path", "") or ""
    found = PreTrainedModel(_toktune.Model.in_memory(name, json.dumps(config), tensors), name, source=model)
    found._places = places
    return found


def to_peft(model: Any) -> Any:
    """A live PEFT model with the adapters of `model`, over the transformers model whose tensors it uses."""
    if model._source is None:
        raise InputError(
            "to_peft() needs the model object of transformers that was trained over; this one came from files: "
            "save_pretrained(), and PeftModel.from_pretrained of PEFT loads it"
        )
    import tempfile

    import peft

    if any("token_adapter" in name or "lora_" in name or "trainable_tokens" in name for name, _ in model._source.named_modules()):
        raise InputError(
            "PEFT has wrapped the transformers model already, by an earlier to_peft() or get_peft_model(): its unload() gives it back"
        )
    live = None
    with tempfile.TemporaryDirectory() as folder:
        for name in model.adapter_names:
            own = f"{folder}/{name}"
            model.save_pretrained(own, selected_adapters=[name], save_embedding_layers=False)
            own = own if name == "default" else f"{own}/{name}"
            if live is None:
                live = peft.PeftModel.from_pretrained(model._source, own, adapter_name=name, is_trainable=True)
            else:
                live.load_adapter(own, name, is_trainable=True)
    if live is not None and len(model.active_adapters) == 1:
        live.set_adapter(model.active_adapters[0])
    return live
