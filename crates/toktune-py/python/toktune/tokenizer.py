"""Tokenizers, under the names of transformers."""

from __future__ import annotations

import json
import os
import tempfile
from collections import UserDict
from pathlib import Path
from collections.abc import Iterable
from typing import Any

from . import _toktune
from .arrays import ids_of, padded
from .errors import InputError

__all__ = ["AddedToken", "AutoTokenizer", "BatchEncoding", "PreTrainedTokenizer"]


class AddedToken:
    """A token to add, with transformers' options as far as they act here."""

    def __init__(
        self,
        content: str,
        single_word: bool = False,
        lstrip: bool = False,
        rstrip: bool = False,
        normalized: bool = True,
        special: bool = False,
    ) -> None:
        self.content, self.single_word, self.special = content, single_word, special
        self.lstrip, self.rstrip, self.normalized = lstrip, rstrip, normalized

    def __repr__(self) -> str:
        return f"AddedToken({self.content!r}, single_word={self.single_word}, special={self.special})"


class BatchEncoding(UserDict):
    """What a tokenizer gives: `input_ids` and `attention_mask`, by key or as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]

    def to(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Itself: everything is on the CPU."""
        return self


def tensors(of: dict[str, list], kind: str | None) -> dict[str, Any]:
    """Lists as arrays of `kind`: "np", "pt", or nothing."""
    kind = getattr(kind, "value", kind)
    if kind is None:
        return of
    if kind not in ("np", "pt"):
        raise InputError(f'return_tensors: expected "np" or "pt", found {kind!r}')
    for name, rows in of.items():
        if len({len(row) for row in rows}) > 1:
            raise InputError(f"{name}: rows of different lengths are no array; padding=True makes them one")
    if kind == "pt":
        try:
            import torch
        except ImportError as error:
            raise InputError('return_tensors="pt" needs torch, which is not installed; "np" gives numpy arrays') from error
        return {name: torch.tensor(rows, dtype=torch.long) for name, rows in of.items()}
    import numpy

    return {name: numpy.array(rows, dtype=numpy.int64) for name, rows in of.items()}


def checked_side(side: str) -> str:
    """`right` or `left`."""
    if side not in ("right", "left"):
        raise InputError(f'padding_side: expected "right" or "left", found {side!r}')
    return side


# of transformers, and of no account here
_LOADING = ("use_fast", "trust_remote_code", "cache_dir", "token", "local_files_only", "legacy", "force_download", "model_max_length")
_CALLING = ("return_attention_mask", "return_token_type_ids", "verbose")


def refuse(where: str, kwargs: dict[str, Any], harmless: tuple[str, ...]) -> None:
    """Refuses what would change the result and is not there."""
    for name, value in kwargs.items():
        if name not in harmless and value not in (None, False, "main", ""):
            raise TypeError(f"{name}={value!r}: {where} of toktune has no such argument")


class PreTrainedTokenizer:
    """A tokenizer. `AutoTokenizer.from_pretrained` gives one.

    Rows are never padded for training, so that a padding token is of no account but where `padding=True` asks for one.
    """

    def __init__(self, inner: _toktune.Tokenizer, name_or_path: str) -> None:
        self._inner = inner
        self.name_or_path = name_or_path
        self._changed = False
        # texts that the vocabulary did not have
        self._new: set[str] = set()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> PreTrainedTokenizer:
        """Reads the tokenizer of a folder, a GGUF file, or an id of the Hub.

        Raises:
            MissingFileError: there is nothing of that.
            InputError: a file is damaged, or of a kind that is not read.
        """
        name = os.fspath(pretrained_model_name_or_path)
        side, pad = kwargs.pop("padding_side", None), kwargs.pop("pad_token", None)
        refuse("from_pretrained", kwargs, _LOADING)
        tokenizer = cls(_toktune.Tokenizer.open(name), name)
        if side is not None:
            tokenizer.padding_side = side
        if pad is not None:
            tokenizer.pad_token = getattr(pad, "content", pad)
        return tokenizer

    def __repr__(self) -> str:
        return f"PreTrainedTokenizer({self.name_or_path!r}, {len(self)} tokens)"

    def __len__(self) -> int:
        return self._inner.sizes()[0]

    def __getstate__(self) -> dict[str, Any]:
        # a pickled tokenizer is its files: `datasets.map` hashes it, and another process reads it
        with tempfile.TemporaryDirectory() as folder:
            self._inner.save(folder)
            files = {name: Path(folder, name).read_bytes() for name in sorted(os.listdir(folder))}
        return {**{name: value for name, value in vars(self).items() if name != "_inner"}, "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state.pop("files").items():
                Path(folder, name).write_bytes(content)
            self._inner = _toktune.Tokenizer.open(folder)
        vars(self).update(state)

    @property
    def required_rows(self) -> int:
        """The rows that a model needs: one more than the highest id, which is more than `len` where ids have holes."""
        return self._inner.sizes()[1]

    @property
    def vocab_size(self) -> int:
        """Tokens without those that were added here."""
        return len(self) - len(self._new)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, added ones included, in the order of the ids."""
        return dict(self._inner.vocabulary())

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens that were added here."""
        return {token: id for token, id in self._inner.vocabulary() if token in self._new}

    @property
    def model_max_length(self) -> int:
        """The longest text that the files say the model takes; as in transformers a number beyond all lengths where they say nothing."""
        found = self._described()["model_max_length"]
        return int(found) if isinstance(found, (int, float)) and 0 < found < 1e18 else int(1e30)

    @property
    def padding_side(self) -> str:
        """Where rows are padded: `right` unless the files or somebody says `left`."""
        return self._described()["padding_side"] or "right"

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        self._inner.set_padding_side(checked_side(side))

    # tokens

    def add_tokens(self, new_tokens: str | AddedToken | Iterable[str | AddedToken], special_tokens: bool = False) -> int:
        """Adds tokens; how many the vocabulary did not have."""
        listed: Iterable[Any] = [new_tokens] if isinstance(new_tokens, str) or hasattr(new_tokens, "content") else new_tokens
        wanted = [
            (token, special_tokens, False)
            if isinstance(token, str)
            else (token.content, special_tokens or bool(token.special), bool(token.single_word))
            for token in listed
        ]
        new = {content for content, _, _ in wanted if self._inner.token_to_id(content) is None}
        for token in listed:
            if not isinstance(token, str) and (getattr(token, "lstrip", False) or getattr(token, "rstrip", False)):
                raise TypeError(f"{token!r}: toktune adds no tokens that take the spaces beside them (lstrip, rstrip)")
        self._inner.add(wanted)
        self._new |= new
        self._changed = self._changed or bool(wanted)
        return len(new)

    def add_special_tokens(self, special_tokens_dict: dict[str, Any], **kwargs: Any) -> int:
        """Adds the tokens of such a dict as special ones (left out by `skip_special_tokens`); how many the vocabulary did not have."""
        named = self._described()
        for name, value in special_tokens_dict.items():
            text = getattr(value, "content", value)
            if name not in ("additional_special_tokens", "extra_special_tokens", "pad_token") and named.get(name) != text:
                raise TypeError(f"{name}: the tokenizer's is {named.get(name)!r}, and toktune gives that name to no other token")
        added = 0
        for name, value in special_tokens_dict.items():
            several = name in ("additional_special_tokens", "extra_special_tokens")
            added += self.add_tokens(value if several else [value], special_tokens=True)
            if name == "pad_token":
                self.pad_token = getattr(value, "content", value)
        return added

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token of the vocabulary, or of each; that of `unk_token` where there is none, or `None`."""
        if isinstance(tokens, str):
            found = self._inner.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The token of an id, as the vocabulary spells it, or of each."""
        if hasattr(ids, "tolist"):
            ids = ids.tolist()
        ids_of([ids] if isinstance(ids, int) else list(ids), name="ids")
        return self._inner.id_to_token(ids) if isinstance(ids, int) else [self._inner.id_to_token(one) for one in ids]

    def describe(self, token: str, description: str) -> None:
        """Says what a token means: what `Recipe(init="description")` starts its row from."""
        id = self._inner.token_to_id(token)
        if id is None:
            raise InputError(f"{token!r} is no token of this tokenizer")
        self._inner.describe_token(id, description)

    # text and ids

    def encode(self, text: str, add_special_tokens: bool = True, **kwargs: Any) -> list[int]:
        """The ids of a text."""
        return self(text, add_special_tokens=add_special_tokens, **kwargs)["input_ids"]

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The tokens of a text, as the vocabulary spells them."""
        return self.convert_ids_to_tokens(self._inner.encode(text, False))

    def __call__(
        self,
        text: str | list[str],
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Ids of a text, or of several. With arrays, a text alone is a batch of one, as in transformers.

        Raises:
            InputError: `return_tensors="pt"` without torch; rows of different lengths that are to be an array.
        """
        refuse("the tokenizer", kwargs, _CALLING)
        alone = isinstance(text, str)
        texts = [text] if isinstance(text, str) else text
        most = (max_length or self.model_max_length) if truncation else None
        rows = [self._ids(one, add_special_tokens, most) for one in texts]
        found: dict[str, Any] = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        if padding:
            found = self._padded(found, max_length if padding == "max_length" else None, padding_side)
        found = tensors(found, return_tensors)
        if alone and return_tensors is None:
            found = {name: rows[0] for name, rows in found.items()}
        return BatchEncoding(found)

    def _padded(self, columns: dict[str, list], least: int | None, side: str | None) -> dict[str, list]:
        """Columns of rows, each filled to one length: ids with the padding token, labels with -100, what else there is with 0."""
        if (fill := self.pad_token_id) is None:
            raise InputError("padding needs a padding token; tokenizer.pad_token = tokenizer.eos_token names one")
        left = checked_side(side or self.padding_side) == "left"
        fills = {"input_ids": fill, "labels": -100}
        return {name: padded(rows, fills.get(name, 0), left=left, least=least or 0) for name, rows in columns.items()}

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Rows of one length, from a dict of columns or a list of dicts. `labels` are filled with -100."""
        refuse("pad", kwargs, _CALLING)
        if hasattr(encoded_inputs, "keys"):
            columns = {name: list(encoded_inputs[name]) for name in encoded_inputs}
        else:
            rows = list(encoded_inputs)
            columns = {name: [row[name] for row in rows] for name in (rows[0].keys() if rows else ())}
        if "input_ids" not in columns:
            raise InputError(f"pad: expected input_ids, found {', '.join(columns) or 'nothing'}")
        if not columns["input_ids"] or not hasattr(columns["input_ids"][0], "__len__"):
            columns = {name: [rows] for name, rows in columns.items()}
        columns = {name: [row.tolist() if hasattr(row, "tolist") else list(row) for row in rows] for name, rows in columns.items()}
        columns.setdefault("attention_mask", [[1] * len(row) for row in columns["input_ids"]])
        if padding:
            least = max((len(row) for row in columns["input_ids"]), default=0)
            least = max(least, max_length or 0) if padding == "max_length" else least
            if pad_to_multiple_of:
                least = -(-least // pad_to_multiple_of) * pad_to_multiple_of
            columns = self._padded(columns, least, padding_side)
        return BatchEncoding(tensors(columns, return_tensors))

    def _ids(self, text: str, with_frame: bool, most: int | None) -> list[int]:
        """The ids of a text, cut within its frame."""
        if not isinstance(text, str):
            raise TypeError(f"text: expected text, found {text!r}")
        ids = self._inner.encode(text, with_frame)
        if most is None or len(ids) <= most:
            return ids
        plain = self._inner.encode(text, False)
        frame = len(ids) - len(plain)
        before = next((at for at in range(frame + 1) if ids[at : at + len(plain)] == plain), 0)
        kept = plain[: max(0, most - frame)]
        return ids[:before] + kept + ids[before + len(plain) :]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """The text of ids."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        (row,) = ids_of([ids] if isinstance(ids, int) else list(ids), name="token_ids")
        return self._inner.decode(row, skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """The text of each of several rows of ids."""
        return [self._inner.decode(row, skip_special_tokens) for row in ids_of(sequences)]

    # conversations

    @property
    def chat_template(self) -> str | None:
        """The template that conversations are written by."""
        return self._described()["chat_template"]

    @chat_template.setter
    def chat_template(self, source: str) -> None:
        self._inner.set_chat_template(source)
        self._changed = True

    def apply_chat_template(
        self,
        conversation: list,
        tools: list | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: str | None = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """A conversation, or each of several, as text (`tokenize=False`), as a `BatchEncoding`, or as ids (`return_dict=False`). Further
        keywords are variables of the template."""
        refused = ("continue_final_message", "truncation", "max_length", "padding", "return_assistant_tokens_mask")
        if wanted := [name for name in refused if kwargs.pop(name, None)]:
            raise TypeError(f"{wanted[0]}: toktune's apply_chat_template has nothing for it")
        source = kwargs.pop("chat_template", None)
        inner = self._inner
        if source is not None:
            inner = inner.copy()
            inner.set_chat_template(source)
        described = None if tools is None else json.dumps(tools)
        several = bool(conversation) and isinstance(conversation[0], (list, tuple))
        chats = conversation if several else [conversation]
        texts = [inner.apply_chat_template(chat, add_generation_prompt, described, json.dumps(kwargs)) for chat in chats]
        if not tokenize:
            return texts if several else texts[0]
        ids = [inner.encode(text, False) for text in texts]
        found = tensors({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}, return_tensors)
        if return_tensors is None and not several:
            found = {name: rows[0] for name, rows in found.items()}
        return BatchEncoding(found) if return_dict else found["input_ids"]

    # names

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text."""
        return self._described()["bos_token"]

    @property
    def bos_token_id(self) -> int | None:
        """The id of `bos_token`."""
        return self._id(self.bos_token)

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self._described()["eos_token"]

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`."""
        return self._id(self.eos_token)

    @property
    def unk_token(self) -> str | None:
        """The token that stands for what the vocabulary cannot spell."""
        return self._described()["unk_token"]

    @property
    def unk_token_id(self) -> int | None:
        """The id of `unk_token`."""
        return self._id(self.unk_token)

    @property
    def mask_token(self) -> str | None:
        """The token that stands for a hidden one."""
        return self._described()["mask_token"]

    @property
    def mask_token_id(self) -> int | None:
        """The id of `mask_token`."""
        return self._id(self.mask_token)

    @property
    def sep_token(self) -> str | None:
        """The token that parts two texts."""
        return self._described()["sep_token"]

    @property
    def sep_token_id(self) -> int | None:
        """The id of `sep_token`."""
        return self._id(self.sep_token)

    @property
    def cls_token(self) -> str | None:
        """The token that a text begins with for a classifier."""
        return self._described()["cls_token"]

    @property
    def cls_token_id(self) -> int | None:
        """The id of `cls_token`."""
        return self._id(self.cls_token)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The names that tokens carry, with the tokens."""
        return self._described()["named_tokens"]

    @property
    def pad_token_id(self) -> int | None:
        """The id of `pad_token`."""
        return self._id(self.pad_token)

    @pad_token_id.setter
    def pad_token_id(self, id: int) -> None:
        self.pad_token = self._inner.id_to_token(id)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._inner.token_to_id(token)

    def _described(self) -> dict[str, Any]:
        return json.loads(self._inner.describe())

    @property
    def pad_token(self) -> str | None:
        """The token of padding."""
        return self._described()["pad_token"]

    @pad_token.setter
    def pad_token(self, token: str | None) -> None:
        if token is None:
            raise TypeError("pad_token: expected a token, found None; a tokenizer keeps the one that it has")
        self._inner.set_pad_token(getattr(token, "content", token))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids that `skip_special_tokens` leaves out, and the named ones."""
        return self._described()["special_ids"]

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens of `all_special_ids`."""
        return self.convert_ids_to_tokens(self.all_special_ids)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes the tokenizer's files into a folder."""
        self._inner.save(save_directory)


class AutoTokenizer:
    """Reads tokenizers, as transformers' class of this name."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> PreTrainedTokenizer:
        """As `PreTrainedTokenizer.from_pretrained`."""
        return PreTrainedTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)


def engine_tokenizer(of: Any) -> _toktune.Tokenizer | None:
    """The engine's tokenizer of ours, or of one of transformers, which is written down and read again."""
    if of is None:
        return None
    if isinstance(of, _toktune.Tokenizer):
        return of
    if isinstance(of, PreTrainedTokenizer):
        return of._inner
    if hasattr(of, "save_pretrained") and hasattr(of, "convert_tokens_to_ids"):
        with tempfile.TemporaryDirectory() as folder:
            of.save_pretrained(folder)
            return _toktune.Tokenizer.open(folder)
    raise TypeError(f"expected a tokenizer, found {type(of).__name__}; a processor's is its attribute `tokenizer`")
