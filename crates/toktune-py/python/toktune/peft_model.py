"""Adapters over a model, under PEFT's names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import _toktune
from .arrays import arrays_of, floats
from .configuration import PeftConfig, of_peft
from .errors import InputError
from .generation import set_draws
from .interop import adapters_of, engine_model, is_live
from .modeling import AutoModel, ModelOutput, Parameter, PreTrainedModel
from .tokenizer import PreTrainedTokenizer, engine_tokenizer

__all__ = [
    "AutoPeftModel", "AutoPeftModelForCausalLM", "AutoPeftModelForFeatureExtraction", "AutoPeftModelForSeq2SeqLM", "PeftModel",
    "get_peft_model", "get_peft_model_state_dict", "set_peft_model_state_dict",
]  # fmt: skip


def base_of(model: Any) -> PreTrainedModel:
    """A model of toktune's, from one, from one of transformers, or from a path."""
    if isinstance(model, PreTrainedModel):
        return model
    if isinstance(model, (str, os.PathLike)):
        return AutoModel.from_pretrained(model)
    found = engine_model(model)
    found.set_precision("auto")
    return found


def without_adapters(model: Any) -> PreTrainedModel:
    """As `base_of`, of a model that has no adapter."""
    base = base_of(model)
    if isinstance(base, PeftModel) or is_live(model):
        raise InputError(
            "the model has adapters already: add_adapter and load_adapter add another, and unload() gives the model without them"
        )
    return base


class PeftModel(PreTrainedModel):
    """A frozen model with adapters, of which some are active. `get_peft_model` and `PeftModel.from_pretrained` give one.

    The model that it was made of stays as it is: weights are shared, and what is merged here is not merged there.
    """

    def __init__(self, inner: _toktune.Model, base: PreTrainedModel) -> None:
        super().__init__(inner, base.name_or_path, base._source)
        self._places = base._places
        # the model of PEFT that the adapters were taken from
        self._live: Any = None
        self.base_model = base
        self._enabled = True

    def __repr__(self) -> str:
        about = self._described()
        return f"PeftModel({self.name_or_path!r}, {about['family']}, adapters: {', '.join(self.adapter_names) or 'none'})"

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        model_id: str | os.PathLike,
        adapter_name: str = "default",
        is_trainable: bool = False,
        **kwargs: Any,
    ) -> PeftModel:
        """Puts the adapter in a folder over a model. A tokenizer in the folder gives the model a row for each of its tokens.

        Raises:
            MissingFileError: there is no adapter.
            InputError: it does not fit the model.
        """
        base = without_adapters(model)
        folder = os.fspath(model_id)
        if any(os.path.isfile(os.path.join(folder, name)) for name in ("tokenizer.json", "tokenizer_config.json")):
            rows = PreTrainedTokenizer.from_pretrained(folder).required_rows
            if rows > base.vocab_size:
                # the given one stays as it is
                base = base.copy()
                base.resize_token_embeddings(rows)
        return cls(_toktune.with_adapter(base._inner, folder, adapter_name), base)

    @classmethod
    def from_model(cls, model: Any) -> PeftModel:
        """Takes a live model of PEFT on the CPU: its weights are used where they lie, its adapters are copied. `to_peft()` puts
        them back.

        Raises:
            TypeError: it is none, or an adapter of it trains what toktune does not.
        """
        if not is_live(model):
            raise TypeError(f"expected a model of PEFT, found {type(model).__name__}")
        adapters = adapters_of(model)
        base = base_of(model)
        (first, (config, _)), *others = adapters.items()
        made = cls(_toktune.adapted(base._inner, as_json(config), first, seed()), base)
        for name, (config, _) in others:
            made.add_adapter(name, config)
        for name, (_, tensors) in adapters.items():
            set_peft_model_state_dict(made, tensors, name)
        active = model.active_adapters
        made.set_adapter(list(active) if isinstance(active, (list, tuple)) else active)
        made._live = model
        return made

    # adapters

    @property
    def adapter_names(self) -> list[str]:
        """Every adapter, in the order of adding."""
        return _toktune.adapters(self._inner)[0]

    @property
    def active_adapters(self) -> list[str]:
        """The active ones."""
        return _toktune.adapters(self._inner)[1]

    @property
    def active_adapter(self) -> Any:
        """The active adapter; of several their list."""
        names = self.active_adapters
        return names[0] if len(names) == 1 else names

    @property
    def peft_config(self) -> dict[str, PeftConfig]:
        """The configuration of each adapter, with the targets filled in."""
        return {name: PeftConfig.from_dict(json.loads(_toktune.adapter_config(self._inner, name))) for name in self.adapter_names}

    @property
    def active_peft_config(self) -> PeftConfig:
        """That of the active adapter."""
        return self.peft_config[self.active_adapters[0]]

    def add_adapter(self, adapter_name: str, peft_config: Any, **kwargs: Any) -> None:
        """Adds a fresh adapter, without making it active."""
        _toktune.add_adapter(self._inner, adapter_name, as_json(peft_config), seed())

    def load_adapter(self, model_id: str | os.PathLike, adapter_name: str, is_trainable: bool = False, **kwargs: Any) -> ModelOutput:
        """Adds the adapter in a folder, without making it active; its `missing_keys` and `unexpected_keys`."""
        missing, unexpected = _toktune.load_adapter(self._inner, os.fspath(model_id), adapter_name)
        return ModelOutput(missing_keys=missing, unexpected_keys=unexpected)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Makes an adapter, or several, the active ones."""
        _toktune.set_adapter(self._inner, [adapter_name] if isinstance(adapter_name, str) else list(adapter_name))

    def delete_adapter(self, adapter_name: str) -> None:
        """Removes an adapter."""
        _toktune.delete_adapter(self._inner, adapter_name)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within it the model computes what its base does."""
        before, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled = before

    def copy(self) -> PeftModel:
        """The model with its adapters once more, over the same weights, to be changed without this one. `copy.copy` and `copy.deepcopy`
        give the same: frozen weights are never copied."""
        made = PeftModel(self._inner.copy_of_adapted(), self.base_model)
        made._enabled = self._enabled
        return made

    def _engine(self) -> _toktune.Model:
        return self._inner if self._enabled else self.base_model._inner

    def get_base_model(self) -> PreTrainedModel:
        """The frozen model."""
        return self.base_model

    # what is trained

    def _parameters(self) -> tuple[list, tuple[int, int]]:
        return _toktune.parameters(self._inner)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every tensor by PEFT's name; those of the active adapter are trained."""
        found, _ = self._parameters()
        with_lora = any(is_lora for _, _, is_lora, _ in found) or self.active_peft_config.peft_type == "LORA"
        inside = "token_adapter." if with_lora else ""
        adapter = self.active_adapters[0]
        for name, parameter in super().named_parameters():
            yield f"base_model.model.{name}", parameter
        for name, layer, is_lora, shape in found:
            kind = name.removeprefix(f"{layer}.")
            own = f"{layer}.{kind}.{adapter}.weight" if is_lora else f"{layer}.{inside}{kind}.{adapter}"
            yield f"base_model.model.{own}", Parameter(tuple(shape), True)

    def num_parameters(self, only_trainable: bool = False) -> int:
        trainable, total = self.get_nb_trainable_parameters()
        return trainable if only_trainable else total

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """The trained numbers, and all numbers."""
        return self._parameters()[1]

    def print_trainable_parameters(self) -> None:
        """Prints PEFT's line of both."""
        trainable, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {100 * trainable / total:.4f}")

    @property
    def token_indices(self) -> list[int]:
        """The tokens whose rows the active adapter replaces."""
        config = self.active_peft_config
        found = getattr(config, "token_indices", None) or getattr(config, "trainable_token_indices", None) or []
        lists = found.values() if isinstance(found, dict) else [found]
        return list(dict.fromkeys(id for ids in lists for id in ids))

    # files and weights

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        selected_adapters: list[str] | None = None,
        save_embedding_layers: str | bool = "auto",
        **kwargs: Any,
    ) -> None:
        """Writes PEFT's files, each adapter but `default` into a folder of its name. `save_embedding_layers`: whether whole embeddings
        go along; `"auto"` does when the model was resized, `False` saves a few kilobytes, which hold all that was trained."""
        if not safe_serialization:
            raise TypeError("safe_serialization=False: toktune writes safetensors")
        layers = saved_layers(save_embedding_layers)
        name = base_name(self.name_or_path)
        _toktune.save_adapter(self._inner, os.fspath(save_directory), selected_adapters, layers, name)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Writes adapters into the weights, in the weights' types; `unmerge_adapter` takes them out exactly."""
        _toktune.merge_adapter(self._inner, adapter_names, safe_merge)

    def unmerge_adapter(self) -> None:
        """Takes what was merged out again."""
        _toktune.unmerge_adapter(self._inner)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> PreTrainedModel:
        """The model with its adapters in its weights, and without adapters."""
        return PreTrainedModel(_toktune.unloaded(self._inner, True, safe_merge, adapter_names), self.name_or_path)

    def unload(self) -> PreTrainedModel:
        """The model without its adapters."""
        return PreTrainedModel(_toktune.unloaded(self._inner, False, False, None), self.name_or_path)

    def merge_to_folder(self, folder: str | os.PathLike, *, dtype: str | None = None, tokenizer: Any = None) -> dict[str, Any]:
        """Writes a plain folder of transformers with the adapter merged in, a tensor at a time, and opens it again: what was found.

        Args:
            dtype: `"float32"` keeps the trained rows as they are; nothing keeps the type of each tensor.
            tokenizer: written beside it; nothing takes that of the model's folder.
        """
        found = _toktune.merge_to_folder(self._inner, os.fspath(folder), dtype, engine_tokenizer(tokenizer))
        return json.loads(found)

    def export(self, path: str | os.PathLike, *, to: str, tokenizer: Any = None) -> dict[str, Any]:
        """Writes the adapter in a form that other programs load: `"peft"`, `"lora-onehot"` (vLLM, SGLang), `"gguf"` (a patched copy of
        the GGUF file that the base is) or `"gguf-lora"`."""
        return json.loads(_toktune.export(self._inner, to, os.fspath(path), engine_tokenizer(tokenizer)))

    def to_peft(self) -> Any:
        """A live PEFT model with these adapters, over the transformers model that this one was made of; the one that `from_model` was
        given, with these adapters in it.

        Raises:
            InputError: it was made of files; PEFT loads the folder that `save_pretrained` writes.
        """
        from .interop import to_peft

        return to_peft(self)


def get_peft_model(model: Any, peft_config: Any, adapter_name: str = "default", **kwargs: Any) -> PeftModel:
    """Wraps a model with a fresh adapter: the rows of the configuration's tokens and the updates of its linear layers can be trained,
    and nothing else.

    Args:
        model: of toktune, or a model object of transformers on the CPU, whose tensors are used where they lie.
        peft_config: a `TrainableTokensConfig` or `LoraConfig`, of toktune or of PEFT.

    Raises:
        InputError: there is no token, or one is out of range or there twice; a target matches nothing.
    """
    base = without_adapters(model)
    config = of_peft(peft_config)
    if getattr(config, "modules_to_save", None) or getattr(config, "bias", "none") != "none":
        raise TypeError("modules_to_save, bias: toktune loads and merges adapters with whole modules and biases, and does not train them")
    return PeftModel(_toktune.adapted(base._inner, as_json(config), adapter_name, seed()), base)


class AutoPeftModel:
    """Opens an adapter with the base that its configuration names."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, adapter_name: str = "default", **kwargs: Any) -> PeftModel:
        """Opens both; a tokenizer in the adapter's folder gives the base a row for each of its tokens."""
        folder = os.fspath(pretrained_model_name_or_path)
        name = PeftConfig.from_pretrained(folder).base_model_name_or_path
        if not name:
            raise InputError(f"{folder}: adapter_config.json names no base (base_model_name_or_path)")
        return PeftModel.from_pretrained(AutoModel.from_pretrained(name), folder, adapter_name)


AutoPeftModelForCausalLM = AutoPeftModel
AutoPeftModelForSeq2SeqLM = AutoPeftModel
AutoPeftModelForFeatureExtraction = AutoPeftModel


def get_peft_model_state_dict(
    model: PeftModel,
    adapter_name: str = "default",
    save_embedding_layers: str | bool = "auto",
    *,
    dtype: str = "float32",
    return_tensors: str = "np",
) -> dict[str, Any]:
    """An adapter's tensors by PEFT's keys, each a matrix.

    Args:
        dtype: `"float32"`, as they are trained and saved, or `"bfloat16"`, rounded.
        return_tensors: `"np"` gives numpy arrays, bf16 ones by `ml_dtypes`; `"pt"` tensors of torch.
    """
    if (kind := str(dtype).removeprefix("torch.")) not in ("float32", "bfloat16"):
        raise InputError(f'dtype: expected "float32" or "bfloat16", found {dtype!r}')
    layers = saved_layers(save_embedding_layers)
    return arrays_of(dict(_toktune.state_dict(model._inner, adapter_name, layers, kind == "bfloat16")), return_tensors)


def set_peft_model_state_dict(model: PeftModel, peft_model_state_dict: dict[str, Any], adapter_name: str = "default") -> ModelOutput:
    """Sets an adapter's tensors by PEFT's keys: numpy arrays (bf16 by `ml_dtypes` too), tensors of torch, or what has DLPack.

    Returns:
        `missing_keys` and `unexpected_keys`.
    """
    tensors = []
    for key, value in peft_model_state_dict.items():
        numbers, (rows, columns) = floats(value)
        tensors.append((key, rows, columns, numbers))
    missing, unexpected = _toktune.set_state_dict(model._inner, tensors, adapter_name)
    return ModelOutput(missing_keys=missing, unexpected_keys=unexpected)


# of what is drawn by chance where an adapter is made; `set_seed` sets it
_seed = 0


def set_seed(of: int) -> None:
    """Sets what random numbers follow from, those of fresh adapters and of texts that are drawn: the same seed gives the same ones."""
    global _seed
    if not 0 <= of < 1 << 64:
        raise InputError(f"seed: expected 0 to 2**64 - 1, found {of}")
    _seed = int(of)
    set_draws(_seed)


def seed() -> int:
    """What `set_seed` set, else 0."""
    return _seed


def saved_layers(of: str | bool) -> str:
    """PEFT's `save_embedding_layers` as the engine takes it."""
    return of if isinstance(of, str) else "yes" if of else "no"


def as_json(config: Any) -> str:
    """A configuration as the engine takes it."""
    return json.dumps(of_peft(config).to_dict())


def base_name(name: str) -> str | None:
    """What `base_model_name_or_path` says of a model: where it lies, or its id."""
    return os.path.abspath(name) if name and os.path.exists(name) else name or None
