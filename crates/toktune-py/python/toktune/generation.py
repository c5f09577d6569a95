"""How text is generated, with transformers' names."""

from __future__ import annotations

import json
import os
import random
from typing import Any

from .errors import InputError

__all__ = ["GenerationConfig"]

# what acts here
_KNOWN = (
    "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "eos_token_id", "stop_strings",
    "forced_bos_token_id", "decoder_start_token_id",
)  # fmt: skip

# what leaves the tokens as they are, or is a name for what is done anyway; with the values that say so
_HARMLESS = {
    "use_cache": (True, False), "pad_token_id": None, "bos_token_id": None, "num_beams": (1,), "num_return_sequences": (1,),
    "return_dict_in_generate": (False,), "output_scores": (False,), "output_attentions": (False,), "output_hidden_states": (False,),
    "early_stopping": (False,), "length_penalty": (1.0,), "no_repeat_ngram_size": (0,), "min_length": (0,), "min_new_tokens": (None, 0),
    "typical_p": (1.0,), "min_p": (None, 0.0), "penalty_alpha": (None,), "cache_implementation": None, "transformers_version": None,
    "trust_remote_code": None,
}  # fmt: skip


class GenerationConfig:
    """How tokens are chosen, and when to stop. What is not given is as the model's own files have it, but for `do_sample`, which is
    off unless it is asked for.

    Args:
        max_new_tokens: the most tokens to generate (256 where the model's files say nothing).
        max_length: the same with the prompt in it.
        do_sample: draw tokens by their probability.
        temperature, top_k, top_p, repetition_penalty: as in transformers.
        eos_token_id: an id, or several, that end the text.
        stop_strings: a string, or several, that end the text; they need `tokenizer=` in `generate`.
        seed: of what is drawn; where nothing is said another one each time, in an order that `toktune.set_seed` settles.

    Raises:
        TypeError: an argument of transformers that toktune has nothing for (beams, several sequences a prompt).
    """

    do_sample: bool | None
    seed: int | None

    def __init__(self, *, max_length: int | None = None, **kwargs: Any) -> None:
        self.max_length = max_length
        for name in _KNOWN:
            setattr(self, name, kwargs.pop(name, None))
        for name, value in kwargs.items():
            if name not in _HARMLESS:
                raise TypeError(f"{name}: toktune's generate() has no such argument")
            accepted = _HARMLESS[name]
            if accepted is not None and value not in accepted:
                raise TypeError(f"{name}={value!r}: toktune generates one text a prompt, a token after the other; expected {accepted[0]!r}")
            setattr(self, name, value)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"GenerationConfig({told})"

    def to_dict(self) -> dict[str, Any]:
        """What is set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def updated(self, **kwargs: Any) -> GenerationConfig:
        """The same with other values."""
        return GenerationConfig(**{**self.to_dict(), **kwargs})

    def for_engine(self, longest_prompt: int) -> str:
        """As the engine takes it."""
        found = {name: getattr(self, name) for name in _KNOWN}
        for name in ("eos_token_id", "stop_strings"):
            found[name] = several(found[name])
        if self.max_length is not None and found["max_new_tokens"] is None:
            found["max_new_tokens"] = max(0, self.max_length - longest_prompt)
        if isinstance(found["forced_bos_token_id"], list):
            found["forced_bos_token_id"] = found["forced_bos_token_id"][0]
        return json.dumps(found)


# what texts are drawn by, unless a seed is given
_draws = random.Random()


def drawn_seed() -> int:
    """A seed for the next text: another one each time, in an order that `set_seed` settles."""
    return _draws.getrandbits(63)


def set_draws(seed: int) -> None:
    """Settles the order of `drawn_seed`."""
    _draws.seed(seed)


def several(of: None | int | str | list) -> list | None:
    """One or several as a list."""
    return of if of is None or isinstance(of, list) else list(of) if isinstance(of, tuple) else [of]


def of_folder(folder: str) -> GenerationConfig:
    """What `generation_config.json` of a folder says that acts here; nothing where there is none."""
    path = os.path.join(folder, "generation_config.json")
    if not os.path.isfile(path):
        return GenerationConfig()
    try:
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, {error}") from error
    if not isinstance(stored, dict):
        raise InputError(f"{path}: expected a JSON object, found {stored!r}")
    return GenerationConfig(**{name: value for name, value in stored.items() if name in (*_KNOWN, "max_length") and value is not None})


def of_transformers(config: Any) -> GenerationConfig:
    """Ours, from one of transformers, of which what it says beyond its defaults is taken."""
    if config is None or isinstance(config, GenerationConfig):
        return config or GenerationConfig()
    stored = config.to_diff_dict() if hasattr(config, "to_diff_dict") else dict(config)
    # what begins so is transformers' own business
    stored = {name: value for name, value in stored.items() if not name.startswith("_")}
    return GenerationConfig(**{name: value for name, value in stored.items() if value is not None})
