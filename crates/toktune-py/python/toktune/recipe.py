"""What to train of a model, as the command line decides it: start rows, head rows of untied models, LoRA beside tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from . import _toktune
from .configuration import LoraConfig, names, token_ids
from .errors import InputError
from .peft_model import PeftModel, without_adapters
from .tokenizer import PreTrainedTokenizer

__all__ = ["Recipe"]

_RULES = ("base", "mean", "random", "pieces", "description")


def texts_of(of: str | Iterable[str]) -> list[str]:
    """Texts as a list; one alone is one."""
    return [of] if isinstance(of, str) else list(of)


class Recipe:
    """What `get_peft_model` leaves to its caller: tokens are added to the tokenizer and the model grows for them, each row starts from
    something of its own, no two start alike, and where the head is a matrix of its own its rows are trained too, or added tokens could
    never be generated.

    Args:
        add_tokens: texts that become tokens.
        add_special_tokens: the same, left out by `skip_special_tokens`.
        tokens: tokens that the vocabulary has.
        token_indices: the ids of such.
        init: what rows start from: `"mean"` (added tokens, unless something else is said), `"base"` (others), `"pieces"`, `"description"`,
            `"random"` or `"like:TOKEN"`; or a dict of these by token.
        target_modules: the matrices; nothing means the embedding, and an untied head for added tokens.
        lora: a `LoraConfig` for updates beside the rows.
        spread: how far rows that would start alike are moved apart, as a share of the entries' root mean square.
        seed: of what is drawn.
    """

    def __init__(
        self,
        *,
        add_tokens: Iterable[str] = (),
        add_special_tokens: Iterable[str] = (),
        tokens: Iterable[str] = (),
        token_indices: Iterable[int] = (),
        init: None | str | dict[str, str] = None,
        target_modules: None | str | list[str] = None,
        lora: LoraConfig | None = None,
        spread: float | None = None,
        seed: int = 42,
    ) -> None:
        self.add_tokens, self.add_special_tokens = texts_of(add_tokens), texts_of(add_special_tokens)
        self.tokens, self.token_indices = texts_of(tokens), token_ids(token_indices, "token_indices")
        if lora is not None and not isinstance(lora, LoraConfig):
            raise TypeError(f"lora: expected a LoraConfig, found {type(lora).__name__}")
        self.init, self.target_modules, self.lora = init, names(target_modules), lora
        self.spread, self.seed = spread, seed

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value)
        return f"Recipe({told})"

    def apply(self, model: Any, tokenizer: PreTrainedTokenizer | None = None) -> PeftModel:
        """Adds the tokens to the tokenizer, and wraps the model with an adapter that trains this.

        Raises:
            InputError: a token is not there, or has no row; a start is made of nothing.
        """
        base = without_adapters(model)
        if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizer):
            raise TypeError("tokenizer: a recipe adds to a tokenizer of toktune's (toktune.AutoTokenizer)")
        ids, added, starts = self._chosen(base, tokenizer) if tokenizer is not None else self._of_ids()
        chosen = list(dict.fromkeys([*ids.values(), *self.token_indices]))
        fields = {
            "tokens": chosen,
            "added": added,
            "target_modules": self.target_modules,
            "inits": starts,
            "spread": self.spread,
            "lora": None if self.lora is None else self.lora.to_dict(),
            "seed": self.seed,
        }
        return PeftModel(_toktune.recipe(base._inner, json.dumps(fields)), base)

    def _of_ids(self) -> tuple[dict[str, int], list[int], dict[str, Any]]:
        """Without a tokenizer tokens are ids."""
        if self.add_tokens or self.add_special_tokens or self.tokens or self.init:
            raise InputError("tokenizer: tokens are named by their text, which needs one")
        return {}, [], {}

    def _chosen(self, base: Any, tokenizer: PreTrainedTokenizer) -> tuple[dict[str, int], list[int], dict[str, Any]]:
        """The tokens' ids by their texts, those that are new, and what they start from."""
        before = tokenizer._inner.copy()
        wanted = self.add_tokens + self.add_special_tokens
        known = set(wanted)
        if missing := [text for text in self.tokens if text not in known and before.token_to_id(text) is None]:
            raise InputError(f"tokens: {missing[0]!r} is no token of this tokenizer; add_tokens makes it one")
        if wanted:
            tokenizer.add_tokens(self.add_tokens)
            tokenizer.add_tokens(self.add_special_tokens, special_tokens=True)
            base.resize_token_embeddings(tokenizer.required_rows)
        ids = {}
        for text in wanted + self.tokens:
            id = tokenizer._inner.token_to_id(text)
            if id is None:
                raise InputError(f"tokens: {text!r} is no token of this tokenizer; add_tokens makes it one")
            ids[text] = id
        # those that were added to this tokenizer before, by a cell that is run again, mean nothing to the model either
        added = [ids[text] for text in wanted if text in tokenizer._new]
        return ids, added, self._starts(ids, before)

    def _starts(self, ids: dict[str, int], before: Any) -> dict[str, Any]:
        rules = self.init if isinstance(self.init, dict) else dict.fromkeys(ids, self.init) if self.init else {}
        if unknown := [text for text in rules if text not in ids]:
            raise InputError(f"init: {unknown[0]!r} is none of the recipe's tokens")
        starts = {}
        for text, rule in rules.items():
            if not isinstance(rule, str):
                raise TypeError(f"init: expected {', '.join(_RULES)} or like:TOKEN, found {rule!r}")
            like = rule.removeprefix("like:") if rule.startswith("like:") else None
            if like is not None:
                source = before.token_to_id(like)
                if source is None:
                    raise InputError(f"init: {rule!r}: {like!r} is no token of this tokenizer")
                starts[str(ids[text])] = ("like", [source])
            elif rule not in _RULES:
                raise InputError(f"init: expected {', '.join(_RULES)} or like:TOKEN, found {rule!r}")
            else:
                sources = before.encode(text, False) if rule == "pieces" else []
                starts[str(ids[text])] = (rule, sources)
        return starts
