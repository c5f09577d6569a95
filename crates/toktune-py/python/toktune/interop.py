"""Objects of torch, transformers and PEFT. None of the three is imported unless such an object comes."""

from __future__ import annotations

import json
import sys
from typing import Any

from . import _toktune
from .arrays import numpy_of
from .errors import InputError
from .modeling import PreTrainedModel

# what torch's types are called in files
_TYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}


def is_module(of: Any) -> bool:
    """Whether it is a module of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(of, torch.nn.Module)


def is_live(of: Any) -> bool:
    """Whether it is a model of PEFT."""
    return is_module(of) and hasattr(of, "peft_config") and hasattr(of, "get_base_model")


def own_name(name: str) -> str | None:
    """A tensor's name before PEFT wrapped its layer; nothing of a tensor that is PEFT's own."""
    parts = [part for part in name.split(".") if part not in ("base_layer", "token_adapter")]
    if any(part.startswith(("lora_", "trainable_tokens_")) for part in parts):
        return None
    return ".".join(parts)


def engine_model(model: Any) -> PreTrainedModel:
    """A model object of transformers, taken where it lies; of one that PEFT has wrapped, the frozen model beneath.

    Raises:
        TypeError: it is none, or is on another device.
    """
    if not is_module(model) or not hasattr(model, "config"):
        raise TypeError(f"expected a model of toktune or of transformers, or a path, found {type(model).__name__}")
    import torch

    model = model.get_base_model() if is_live(model) else model
    tensors, places = [], []
    for stored, tensor in model.state_dict().items():
        if (name := own_name(stored)) is None:
            continue
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


def adapters_of(live: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The configuration and the tensors of each adapter of a model of PEFT.

    Raises:
        TypeError: an adapter trains whole modules or biases, or is merged into the weights at the moment.
    """
    import peft

    if any(getattr(module, "merged_adapters", None) for module in live.modules()):
        raise TypeError("an adapter is merged into the model's weights: unmerge_adapter() takes it out")
    found = {}
    for name, config in live.peft_config.items():
        if getattr(config, "modules_to_save", None) or getattr(config, "bias", "none") != "none":
            raise TypeError(f"adapter {name!r}: toktune trains no whole modules and no biases (modules_to_save, bias)")
        tensors = peft.get_peft_model_state_dict(live, adapter_name=name, save_embedding_layers=False)
        found[name] = config, {key: tensor.detach().clone() for key, tensor in tensors.items()}
    return found


def write_back(model: Any, live: Any) -> None:
    """Puts the adapters of `model` into the model of PEFT that they were taken from."""
    import peft
    import torch

    for name in model.adapter_names:
        arrays = get_state(model, name)
        tensors = {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}
        peft.set_peft_model_state_dict(live, tensors, adapter_name=name)


def get_state(model: Any, name: str) -> dict[str, Any]:
    """The tensors of an adapter by PEFT's keys."""
    return {key: numpy_of(array) for key, array in _toktune.state_dict(model._inner, name, "no", False)}


def to_peft(model: Any) -> Any:
    """A live PEFT model with the adapters of `model`, over the transformers model whose tensors it uses."""
    if model._live is not None:
        write_back(model, model._live)
        return model._live
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
