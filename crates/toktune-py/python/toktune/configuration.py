"""Configurations of adapters, with the fields of PEFT's classes of these names."""

from __future__ import annotations

import json
import os
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from .errors import FileError, InputError, MissingFileError

__all__ = ["LoraConfig", "PeftConfig", "PeftType", "TaskType", "TrainableTokensConfig"]

CONFIG_NAME = "adapter_config.json"


class TaskType:
    """PEFT's names of tasks."""

    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


class PeftType:
    """PEFT's names of the methods that are here."""

    TRAINABLE_TOKENS = "TRAINABLE_TOKENS"
    LORA = "LORA"


def token_ids(of: Any, name: str) -> list[int]:
    """Token ids as plain integers, from a list, a range, or an array of numpy or torch."""
    if isinstance(of, (str, bytes)):
        raise TypeError(f"{name}: expected ids, found text; tokenizer.convert_tokens_to_ids gives the id of a token")
    if hasattr(of, "tolist"):
        of = of.tolist()
    if not hasattr(of, "__iter__"):
        raise TypeError(f"{name}: expected a list of ids, found {of!r}")
    ids = []
    for at, one in enumerate(of):
        if one is None:
            raise InputError(f"{name}[{at}] is None: the tokenizer does not know that token")
        if isinstance(one, str):
            raise TypeError(f"{name}[{at}]: expected an id, found {one!r}; tokenizer.convert_tokens_to_ids gives the id of a token")
        try:
            ids.append(one.__index__() if hasattr(one, "__index__") else int(one.item()))
        except (AttributeError, ValueError) as error:
            raise TypeError(f"{name}[{at}]: expected an id, found {one!r}") from error
        if not 0 <= ids[-1] < 1 << 32:
            raise InputError(f"{name}[{at}]: expected an id, found {ids[-1]}")
    return ids


@dataclass(kw_only=True)
class PeftConfig:
    """What every adapter has.

    Attributes:
        task_type: one of `TaskType`; nothing means what the model is.
        base_model_name_or_path: the model that the adapter was trained on.
        revision: its revision on the Hub.
        inference_mode: whether it was saved for inference.
        auto_mapping: the classes of a base that the task type does not tell.
    """

    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    auto_mapping: dict | None = None
    peft_version: str | None = None

    peft_type: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        self.task_type = getattr(self.task_type, "value", self.task_type)

    def to_dict(self) -> dict[str, Any]:
        """The fields of `adapter_config.json`."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**found, "peft_type": self.peft_type}

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes `adapter_config.json` into a folder."""
        os.makedirs(save_directory, exist_ok=True)
        with open(os.path.join(save_directory, CONFIG_NAME), "w", encoding="utf-8") as out:
            json.dump(self.to_dict(), out, indent=2, sort_keys=True)

    @classmethod
    def from_dict(cls, of: dict[str, Any]) -> PeftConfig:
        """A configuration of the class that `peft_type` names; fields that are not known are left out."""
        kinds = {kind.peft_type: kind for kind in (TrainableTokensConfig, LoraConfig)}
        wanted = of.get("peft_type")
        if wanted not in kinds:
            raise InputError(f"peft_type: expected {' or '.join(kinds)}, found {wanted!r}")
        kind = kinds[wanted]
        known = {one.name for one in fields(kind)}
        return kind(**{name: value for name, value in of.items() if name in known})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> PeftConfig:
        """Reads that of an adapter's folder.

        Raises:
            MissingFileError: there is no `adapter_config.json`.
            InputError: it is of another method.
        """
        path = os.path.join(pretrained_model_name_or_path, CONFIG_NAME)
        try:
            with open(path, encoding="utf-8") as text:
                found = json.load(text)
            if not isinstance(found, dict):
                raise InputError(f"{path}: expected an object, found {type(found).__name__}")
            return cls.from_dict(found)
        except FileNotFoundError as error:
            raise MissingFileError(f"{path}: there is no such file") from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
            raise InputError(f"{path}: {error}") from error
        except OSError as error:
            raise FileError(f"{path}: {error}") from error


@dataclass(kw_only=True)
class TrainableTokensConfig(PeftConfig):
    """Marks tokens whose embeddings are trained; everything else stays frozen.

    Attributes:
        token_indices: the ids of the tokens: a list, a range, or an array.
        target_modules: the embeddings, by names (endings at a dot count) or by a regular expression for full names; nothing means the
            model's input embedding.
        init_weights: whether the rows start as they are; otherwise they are normal numbers.
    """

    token_indices: list[int] = field(default_factory=list)
    target_modules: list[str] | str | None = None
    init_weights: bool = True

    peft_type: ClassVar[str] = PeftType.TRAINABLE_TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.token_indices = token_ids(self.token_indices, "token_indices")
        self.target_modules = names(self.target_modules)


@dataclass(kw_only=True)
class LoraConfig(PeftConfig):
    """Low-rank updates of linear layers, with trained tokens beside them or without; the fields are PEFT's.

    What PEFT has and toktune has not (`use_dora` and its kin) must stay as it is by default.
    """

    r: int = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: str = "none"
    use_rslora: bool = False
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    ensure_weight_tying: bool = False
    # what another value of would be another method
    use_dora: bool = False
    use_qalora: bool = False
    lora_bias: bool = False
    megatron_config: dict | None = None
    loftq_config: dict = field(default_factory=dict)
    eva_config: Any | None = None
    corda_config: Any | None = None
    arrow_config: Any | None = None
    alora_invocation_tokens: list[int] | None = None
    target_parameters: list[str] | None = None

    peft_type: ClassVar[str] = PeftType.LORA

    _ABSENT: ClassVar[tuple[str, ...]] = (
        "use_dora", "use_qalora", "lora_bias", "megatron_config", "loftq_config", "eva_config", "corda_config", "arrow_config",
        "alora_invocation_tokens", "target_parameters",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.target_modules = names(self.target_modules)
        self.exclude_modules = names(self.exclude_modules)
        for name in self._ABSENT:
            if getattr(self, name):
                raise TypeError(f"{name}: toktune has no such form of LoRA; leave it as it is by default")
        indices = self.trainable_token_indices
        if isinstance(indices, dict):
            self.trainable_token_indices = {layer: token_ids(ids, f"trainable_token_indices[{layer!r}]") for layer, ids in indices.items()}
        elif indices is not None:
            self.trainable_token_indices = token_ids(indices, "trainable_token_indices")

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        return {name: value for name, value in found.items() if name not in self._ABSENT}


def names(of: Any) -> Any:
    """A set of names as a list: JSON has no sets."""
    return sorted(of) if isinstance(of, (set, frozenset)) else list(of) if isinstance(of, tuple) else of


def of_peft(config: Any) -> PeftConfig:
    """A configuration of toktune's, from one of PEFT's."""
    if isinstance(config, PeftConfig):
        return config
    if not hasattr(config, "peft_type") or not hasattr(config, "to_dict"):
        raise TypeError(f"expected a TrainableTokensConfig or LoraConfig, found {type(config).__name__}")
    found = {name: names(getattr(value, "value", value)) for name, value in config.to_dict().items()}
    # fields that toktune has not must say what they say by default
    known = {one.name for kind in (TrainableTokensConfig, LoraConfig) for one in fields(kind)} | {"peft_type"}
    for one in fields(config):
        default = one.default if one.default is not MISSING else one.default_factory() if one.default_factory is not MISSING else None
        if one.name not in known and found.get(one.name) not in (default, None):
            raise TypeError(f"{one.name}: toktune has no such form of the method; leave it as it is by default")
    return PeftConfig.from_dict(found)
