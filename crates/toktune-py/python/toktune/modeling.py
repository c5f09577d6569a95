"""Pretrained models, under the names of transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from . import _toktune
from .arrays import arrays_of, ids_of, is_torch, numpy_of, padded
from .errors import InputError
from .generation import GenerationConfig, drawn_seed, of_folder, of_transformers
from .tokenizer import engine_tokenizer

__all__ = [
    "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM", "Embedding", "ModelOutput", "Parameter",
    "PreTrainedModel", "PretrainedConfig",
]  # fmt: skip


# files' names of types, by numpy's and torch's
_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class PretrainedConfig:
    """A model's `config.json`, its fields as attributes."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(f"config.json has no {name!r}")
        return self._fields[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise TypeError(f"config.{name}: a model is what its files say; what generate() takes of it are arguments of that")
        super().__setattr__(name, value)

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return dict(self._fields)

    def __repr__(self) -> str:
        return f"PretrainedConfig({json.dumps(self._fields, indent=2)})"


class ModelOutput(dict):
    """What a forward pass gives, by key or as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Parameter:
    """A tensor of a model as `named_parameters` lists it: its shape, and whether it is trained."""

    def __init__(self, shape: tuple[int, ...], requires_grad: bool, dtype: str = "float32") -> None:
        self.shape, self.requires_grad, self.dtype = tuple(shape), requires_grad, dtype

    def numel(self) -> int:
        """How many numbers it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, requires_grad={self.requires_grad})"


class Embedding:
    """A token matrix of a model, as `get_input_embeddings` gives it."""

    def __init__(self, model: PreTrainedModel, layer: str, rows: int, width: int) -> None:
        self._model, self.name, self.num_embeddings, self.embedding_dim = model, layer, rows, width

    @property
    def weight(self) -> Any:
        """Its rows, `[num_embeddings, embedding_dim]`, as numpy, decoded."""
        return numpy_of(self._model._inner.weight(self.name))

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim})"


class PreTrainedModel:
    """A pretrained model, every weight of it frozen. `AutoModelForCausalLM.from_pretrained` and its kin give one."""

    def __init__(self, inner: _toktune.Model, name_or_path: str, source: Any = None) -> None:
        self._held = inner
        self.name_or_path = name_or_path
        # the model of transformers whose tensors these are, and where they lay when they were taken
        self._source = source
        self._places: list[tuple[Any, int]] = []
        self.training = False

    # what it is

    def _described(self) -> dict[str, Any]:
        return json.loads(self._inner.describe())

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration; its `vocab_size` is the rows that there are."""
        about = self._described()
        return PretrainedConfig({**about["config"], "vocab_size": about["vocabulary"]})

    @property
    def device(self) -> str:
        """Where it lies."""
        return "cpu"

    @property
    def kind(self) -> str:
        """What it is: `causal`, `masked`, `seq2seq` or `pairs`."""
        return self._described()["kind"]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self._described()["vocabulary"]

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers there are in all weights."""
        return 0 if only_trainable else self._described()["parameters"]

    def __repr__(self) -> str:
        about = self._described()
        return f"{type(self).__name__}({self.name_or_path!r}, {about['family']}, {about['parameters']:,} parameters)"

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every tensor by its name; none is trained."""
        for name, shape, stored in self._inner.tensors():
            yield name, Parameter(tuple(shape), False, _TYPES.get(stored, stored))

    def state_dict(self, *, return_tensors: str = "np") -> dict[str, Any]:
        """Every tensor of the model's files by its name, in the type that it is stored in (quantised ones as f32), copied.

        Args:
            return_tensors: `"np"` gives numpy arrays, bf16 ones by `ml_dtypes`; `"pt"` tensors of torch.
        """
        return arrays_of({name: self._inner.tensor(name) for name, _, _ in self._inner.tensors()}, return_tensors)

    @property
    def dtype(self) -> str:
        """The type that most numbers are stored in: `float32`, `bfloat16`, `float16`, or the name of a quantised format."""
        counts: dict[str, int] = {}
        for _, parameter in PreTrainedModel.named_parameters(self):
            counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
        return max(counts, key=lambda name: counts[name])

    def parameters(self) -> Iterator[Parameter]:
        """The tensors of `named_parameters`."""
        return (parameter for _, parameter in self.named_parameters())

    def _embedding(self, name: str) -> Embedding:
        sizes = {layer: (rows, columns) for layer, _, rows, columns in self._inner.layers()}
        return Embedding(self, name, *sizes[name])

    def get_input_embeddings(self) -> Embedding:
        """The embedding."""
        return self._embedding(self._described()["embedding"])

    @property
    def generation_config(self) -> GenerationConfig:
        """What the model's files say of generation, as far as it acts here: a copy, to be changed and given to `generate`."""
        if self._source is not None:
            return of_transformers(getattr(self._source, "generation_config", None))
        return of_folder(self.name_or_path)

    def get_output_embeddings(self) -> Embedding | None:
        """The head, where there is one."""
        head = self._described()["head"]
        return None if head is None else self._embedding(head)

    def copy(self) -> "PreTrainedModel":
        """The model once more, over the same weights, to be changed without this one."""
        made = PreTrainedModel(self._inner.copy_of_base(), self.name_or_path, self._source)
        made._places = self._places
        return made

    def __copy__(self) -> "PreTrainedModel":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "PreTrainedModel":
        return self.copy()

    @property
    def _inner(self) -> _toktune.Model:
        """The engine's model, whose tensors are where they were."""
        self._check_places()
        return self._held

    def _engine(self) -> _toktune.Model:
        """What computes."""
        return self._inner

    def _check_places(self) -> None:
        if any(tensor.data_ptr() != place for tensor, place in self._places):
            raise InputError(
                "the tensors of the transformers model have been moved in memory (share_memory, to, resize_token_embeddings): take the "
                "model anew"
            )

    # what is done with it

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Embedding:
        """Gives the embedding, and an untied head, at least so many rows, each new one the mean of the others. Rows are never taken
        away: they may be padding that later tokens use."""
        if new_num_tokens is not None:
            if not 0 <= new_num_tokens < 1 << 32:
                raise InputError(f"new_num_tokens: expected a number of rows, found {new_num_tokens}")
            multiple = kwargs.get("pad_to_multiple_of")
            rows = -(-new_num_tokens // multiple) * multiple if multiple else new_num_tokens
            self._inner.resize(rows)
        return self.get_input_embeddings()

    def set_precision(self, mode: str) -> None:
        """Takes products with frozen weights in `"f32"` or `"bf16"`; `"auto"` takes bf16 for weights of 16 bits and fewer where the
        processor multiplies it fast."""
        self._inner.set_precision(mode)

    def eval(self) -> PreTrainedModel:
        """Itself."""
        self.training = False
        return self

    def train(self, mode: bool = True) -> PreTrainedModel:
        """Itself: training is the `Trainer`'s."""
        self.training = mode
        return self

    def to(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Itself on the CPU.

        Raises:
            TypeError: another device or type is asked for.
        """
        for wanted in [*args, *kwargs.values()]:
            if str(wanted) not in ("cpu", "None"):
                raise TypeError(f"to({wanted!r}): toktune computes on the CPU, with weights in the type that they are stored in")
        return self

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what is kept of activations is the `memory_budget` of a run."""

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """A forward pass without gradients.

        Args:
            input_ids: ids, `[tokens]` or `[sequences, tokens]`, or a list of rows of any lengths.
            attention_mask: 0 where ids are padding.
            labels: what is to be predicted, -100 for nothing; an encoder-decoder needs them.
            adapter_names: an adapter for each sequence.

        Returns:
            `logits`, `[sequences, tokens, vocabulary]` as numpy (0 behind the end of shorter rows), and with labels the `loss`, the
            mean over all labels in nats.
        """
        import numpy

        if unknown := [name for name in kwargs if name not in _IGNORED_IN_FORWARD and kwargs[name] not in (None, False)]:
            raise TypeError(f"{unknown[0]}: a forward pass of toktune has no such argument")
        sequences = ids_of(input_ids, attention_mask)
        targets = None if labels is None else ids_of(labels, name="labels", least=-100)
        kind, rows_there = self.kind, self.vocab_size
        self._check_labels(sequences if attention_mask is None else ids_of(input_ids), targets, kind, rows_there)
        rows = [numpy_of(array) for array in _toktune.logits(self._engine(), sequences, targets, adapter_names)]
        is_own = kind != "seq2seq" and attention_mask is not None
        places = [numpy.flatnonzero(row) for row in ids_of(attention_mask)] if is_own else [numpy.arange(len(row)) for row in rows]
        longest = len(ids_of(attention_mask)[0]) if is_own else max(len(row) for row in rows)
        logits = numpy.zeros((len(rows), longest, rows[0].shape[1]), dtype=numpy.float32)
        for at, (row, place) in enumerate(zip(rows, places, strict=True)):
            logits[at, place] = row
        output = ModelOutput(logits=logits)
        if targets is not None:
            if is_own:
                targets = [
                    [label for label, kept in zip(row, mask, strict=True) if kept]
                    for row, mask in zip(targets, ids_of(attention_mask), strict=True)
                ]
            output["loss"] = mean_loss(rows, targets, kind == "causal")
        return output

    @staticmethod
    def _check_labels(sequences: list[list[int]], labels: list[list[int]] | None, kind: str, rows: int) -> None:
        if labels is None:
            if kind == "seq2seq":
                raise InputError("labels: an encoder-decoder's decoder reads what comes before each label, and there are none")
            return
        if len(labels) != len(sequences):
            raise InputError(f"labels: expected one row for each of {len(sequences)} sequences, found {len(labels)}")
        if kind != "seq2seq" and [len(row) for row in labels] != [len(row) for row in sequences]:
            raise InputError("labels: expected the lengths of input_ids")
        if beyond := [label for row in labels for label in row if label >= rows]:
            raise InputError(f"labels: expected ids below {rows}, found {beyond[0]}")

    forward = __call__

    def hidden_states(self, input_ids: Any, attention_mask: Any = None) -> list[Any]:
        """The last hidden rows of a decoder, after its last norm, `[tokens, d]` for each sequence."""
        return [numpy_of(array) for array in _toktune.hidden_states(self._engine(), ids_of(input_ids, attention_mask))]

    def encode(self, sentences: str | list[str], tokenizer: Any) -> Any:
        """Vectors of sentences, `[sentences, d]`, by a model of sentence pairs, as sentence-transformers' method of this name."""
        one = isinstance(sentences, str)
        inner = engine_tokenizer(tokenizer)
        if inner is None:
            raise TypeError("encode() needs a tokenizer")
        texts = [sentences] if isinstance(sentences, str) else sentences
        found = numpy_of(_toktune.sentence_embeddings(self._engine(), [inner.encode(text, True) for text in texts]))
        return found[0] if one else found

    def generate(
        self,
        inputs: Any = None,
        generation_config: Any = None,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        tokenizer: Any = None,
        streamer: Any = None,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continues prompts; greedily unless `do_sample=True`. All of them go on together, without padding.

        Args:
            inputs, input_ids: the prompts, `[tokens]` or `[prompts, tokens]`, or a list of rows of any lengths.
            attention_mask: 0 where ids are padding.
            generation_config: a `GenerationConfig`, of transformers or of toktune; further keywords are its fields.
            tokenizer: where `stop_strings` are given; its end tokens end the texts too.
            streamer: has `put` and `end`, as transformers'; of one prompt alone.
            adapter_names: an adapter for each prompt.

        Returns:
            `[prompts, tokens]`, prompt and text, filled behind the end with the padding or end token: numpy, or torch where the prompts
            are. Of an encoder-decoder the decoder's tokens, its start token first.
        """
        import numpy

        given = inputs if input_ids is None else input_ids
        if given is None:
            raise TypeError("generate() needs input_ids")
        prompts = ids_of(given, attention_mask)
        if generation_config is None and self._source is not None:
            # what was changed in the object without being saved counts
            generation_config = getattr(self._source, "generation_config", None)
        config = of_transformers(generation_config).updated(**kwargs)
        if config.do_sample and config.seed is None:
            config.seed = drawn_seed()
        if streamer is not None and len(prompts) != 1:
            raise TypeError("streamer: one prompt can be streamed at a time")

        def tell(step: list[tuple[int, int]]) -> None:
            for _, token in step:
                streamer.put(numpy.array([token]))

        if streamer is not None:
            streamer.put(numpy.array(prompts))
        found = _toktune.generate(
            self._engine(),
            prompts,
            adapter_names,
            config.for_engine(max(len(prompt) for prompt in prompts)),
            engine_tokenizer(tokenizer),
            None if streamer is None else tell,
        )
        if streamer is not None:
            streamer.end()
        about = self._described()
        fill = self._fill(config, about["config"], tokenizer)
        if about["kind"] == "seq2seq":
            start = about["config"].get("decoder_start_token_id")
            rows = [[start if start is not None else fill, *tokens] for tokens, _ in found]
        else:
            # padding before a prompt stays, so that what is new begins behind the given length
            begun = ids_of(given)
            rows = [row + tokens for row, (tokens, _) in zip(begun, found, strict=True)]
        array = numpy.array(padded(rows, fill), dtype=numpy.int64)
        if is_torch(given):
            import torch

            return torch.from_numpy(array)
        return array

    @staticmethod
    def _fill(config: GenerationConfig, fields: dict[str, Any], tokenizer: Any) -> int:
        for found in (
            getattr(config, "pad_token_id", None),
            getattr(tokenizer, "pad_token_id", None),
            fields.get("pad_token_id"),
            fields.get("eos_token_id"),
        ):
            if isinstance(found, list) and found:
                found = found[0]
            if isinstance(found, int):
                return found
        return 0


# of transformers' forward passes, and of no account here
_IGNORED_IN_FORWARD = ("return_dict", "use_cache", "token_type_ids")


def mean_loss(logits: list[Any], labels: list[list[int]], shift: bool) -> float:
    """The mean negative log-likelihood of the labels, in nats; in a causal model a row predicts the next label."""
    import numpy

    total, count = 0.0, 0
    for row, targets in zip(logits, labels):
        places, wanted = (row[:-1], targets[1:]) if shift else (row, targets)
        for place, target in zip(places, wanted):
            if target >= 0:
                values = place.astype(numpy.float64)
                most = values.max()
                total += most + numpy.log(numpy.exp(values - most).sum()) - values[target]
                count += 1
    if not count:
        raise InputError("labels: every one is -100, so that there is no loss")
    return float(total / count)


_LOADING = (
    "torch_dtype", "dtype", "device_map", "low_cpu_mem_usage", "trust_remote_code", "attn_implementation", "cache_dir", "token",
    "local_files_only", "revision", "use_safetensors", "force_download", "proxies", "offload_folder", "max_memory",
)  # fmt: skip


_TOLD = {"causal": "a causal language model", "masked": "a masked language model", "seq2seq": "an encoder-decoder model"}


class AutoModel:
    """Loads models of every kind, as transformers' class of this name: what the files hold decides."""

    _KIND: str | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
        """Opens a folder with `config.json` and safetensors or `pytorch_model.bin`, a GGUF file, or an id of the Hub. Weights are
        mapped where they lie, in the type that they are stored in; `dtype`, `device_map` and their kin are of no account.

        Args:
            precision: `"auto"`, `"f32"` or `"bf16"`, as `PreTrainedModel.set_precision`.

        Raises:
            MissingFileError: there is nothing of that.
            InputError: a file is damaged or not supported, or the model is of another kind.
            TypeError: an argument that toktune has nothing for.
        """
        precision = kwargs.pop("precision", "auto")
        quantised = [name for name in ("load_in_4bit", "load_in_8bit", "quantization_config") if kwargs.pop(name, None)]
        if quantised:
            raise TypeError(f"{quantised[0]}: toktune does not quantise; give it a GGUF file of the model, which it reads as it lies")
        device = kwargs.get("device_map")
        if device not in (None, "cpu", "auto") and device != {"": "cpu"}:
            raise TypeError(f"device_map={device!r}: toktune computes on the CPU")
        if unknown := [name for name in kwargs if name not in _LOADING]:
            raise TypeError(f"{unknown[0]}: from_pretrained() has no such argument")
        name = os.fspath(pretrained_model_name_or_path)
        model = PreTrainedModel(_toktune.Model.open(name), name)
        cls._check(model)
        model.set_precision(precision)
        return model

    @classmethod
    def from_model(cls, model: Any, *, precision: str = "auto") -> PreTrainedModel:
        """Takes a model object of transformers on the CPU: its tensors are used where they lie, unsaved changes among them, and nothing
        is copied. They must not change while toktune computes with them.

        Raises:
            TypeError: it is no such model, or lies on another device.
        """
        from .interop import engine_model

        found = engine_model(model)
        cls._check(found)
        found.set_precision(precision)
        return found

    @classmethod
    def _check(cls, model: PreTrainedModel) -> None:
        if cls._KIND is not None and model.kind != cls._KIND:
            raise InputError(f"{model.name_or_path}: expected {_TOLD[cls._KIND]}, found {model._described()['told']}")


class AutoModelForCausalLM(AutoModel):
    """Loads causal language models."""

    _KIND = "causal"


class AutoModelForMaskedLM(AutoModel):
    """Loads masked language models."""

    _KIND = "masked"


class AutoModelForSeq2SeqLM(AutoModel):
    """Loads encoder-decoders."""

    _KIND = "seq2seq"
