"""Training data from what people have: files, lists, generators, `datasets`, pandas, pairs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import _toktune
from .errors import InputError
from .modeling import PreTrainedModel
from .tokenizer import engine_tokenizer

__all__ = ["TokenisedDataset", "tokenise"]


class TokenisedDataset:
    """Rows that are read and encoded for a model; `tokenise` gives them, and `Trainer` takes them as they are."""

    def __init__(self, inner: _toktune.Dataset) -> None:
        self._inner = inner

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """An example as it is learnt: `input_ids`, and `labels` with -100 where nothing is learnt."""
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"there are {len(self)} examples, and no example {index}")
        ids, labels, second = self._inner.example(at)
        return {"input_ids": ids, "labels": labels, **({"second": second} if second else {})}

    def describe(self, tokens: Iterable[int] = ()) -> dict[str, Any]:
        """How much there is, and how often each of some tokens is read and learnt."""
        return json.loads(self._inner.describe(list(tokens)))

    def __repr__(self) -> str:
        about = self.describe()
        return f"TokenisedDataset({about['examples']} examples, {about['tokens']} tokens, {about['labels']} of them learnt)"


def rows_of(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of anything that has some."""
    if hasattr(dataset, "columns") and hasattr(dataset, "itertuples"):
        # pandas: what is missing in a column is not there
        names = [str(name) for name in dataset.columns]
        for values in dataset.itertuples(index=False, name=None):
            yield {name: value for name, value in zip(names, values) if not is_missing(value)}
        return
    if isinstance(dataset, Mapping):
        if any(hasattr(value, "column_names") for value in dataset.values()):
            raise TypeError(f"expected one set of rows, found several ({', '.join(map(str, dataset))}): give one of them")
        columns = {name: list(values) for name, values in dataset.items()}
        if len({len(values) for values in columns.values()}) > 1:
            raise InputError("a dict of columns: expected all of one length")
        for at in range(len(next(iter(columns.values()), []))):
            yield {name: values[at] for name, values in columns.items()}
        return
    if not hasattr(dataset, "__iter__") and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(f"expected rows, texts or paths, found {dataset!r}")
    # a map-style dataset of torch has numbers alone
    rows = dataset if hasattr(dataset, "__iter__") else map(dataset.__getitem__, range(len(dataset)))
    for row in rows:
        yield row_of(row)


def row_of(row: Any) -> Any:
    """A row as a dict, from a text, a pair of texts, or sentence-transformers' `InputExample`."""
    if isinstance(row, str):
        return {"text": row}
    texts = getattr(row, "texts", None)
    pair = texts if isinstance(texts, (list, tuple)) else row
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair):
        return {"anchor": pair[0], "positive": pair[1]}
    return row


def is_missing(value: Any) -> bool:
    """Whether it is pandas' sign that there is nothing."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def paths_of(dataset: Any) -> list[str] | None:
    """The paths, where the data are some."""
    if isinstance(dataset, (str, os.PathLike)):
        return [os.fspath(dataset)]
    if isinstance(dataset, (list, tuple)) and dataset and all(isinstance(one, os.PathLike) for one in dataset):
        return [os.fspath(one) for one in dataset]
    if isinstance(dataset, (list, tuple)) and dataset and all(isinstance(one, str) and os.path.exists(one) for one in dataset):
        return list(dataset)
    return None


def tokenise(dataset: Any, model: PreTrainedModel, tokenizer: Any = None, **options: Any) -> TokenisedDataset:
    """Reads and encodes data for a model.

    Args:
        dataset: a path (a file or folder; `PATH:WEIGHT` counts it more or less often), a list of paths, rows as dicts (a list, a
            generator, `datasets.Dataset`, a pandas frame, a dict of columns), texts, or pairs of texts. Rows have one of the forms of
            `docs/data.md`, tokenised ones among them (`input_ids`, `labels`, `attention_mask`).
        tokenizer: of toktune or of transformers; rows of `input_ids` need none.
        options: `max_length`, `loss_on` (`"all"`, `"completion"`), `text_key`, `prompt_key`, `completion_key`, `mlm_probability`, `seed`.

    Raises:
        InputError: a row is at fault, which is named by its number; nothing is learnt in any.
        MissingFileError: there is no such file.
    """
    if isinstance(dataset, TokenisedDataset):
        return dataset
    inner, told = engine_tokenizer(tokenizer), json.dumps({name: value for name, value in options.items() if value is not None})
    if (paths := paths_of(dataset)) is not None:
        return TokenisedDataset(_toktune.Dataset.read(model._inner, paths, inner, told))
    return TokenisedDataset(_toktune.Dataset.from_rows(model._inner, rows_of(dataset), inner, told))
