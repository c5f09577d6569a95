"""Small models, and a cache of the Hub that holds one of them under a name of the method's documentation."""

import json
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy
import pytest

sys.path.insert(0, str(Path(__file__).parent))

# before anything reads them: the Hub is a folder of this run's own
HOME = tempfile.TemporaryDirectory(prefix="toktune-hub-")
os.environ.update(HF_HOME=HOME.name, HF_HUB_OFFLINE="1")
os.environ.pop("HF_HUB_CACHE", None)

FIXTURES = Path(__file__).parents[2] / "toktune" / "tests" / "fixtures"
WORDS = [
    "medical",
    "diagnosis",
    "treatment",
    "patient",
    "hello",
    "world",
    "AI",
    "special",
    "domain",
    "terminology",
    "the",
    "a",
    "of",
    "is",
    "what",
    "how",
    "many",
    "answer",
    "question",
    "two",
    "three",
    "four",
    "plus",
    "equals",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "and",
    "ran",
    "to",
]
MARKERS = ["<pad>", "<s>", "</s>", "<unk>"]
# as many as OPT's tokenizer has; the model has seven rows more
TOKENS, ROWS = 50265, 50272


@pytest.fixture(scope="session")
def fixtures():
    """The folder of the committed models."""
    return FIXTURES


def write_safetensors(path, tensors):
    """A file of `f32` tensors."""
    header, at, parts = {}, 0, []
    for name, tensor in tensors.items():
        data = numpy.ascontiguousarray(tensor, dtype=numpy.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def write_tokenizer(folder, size, chats=True):
    """A tokenizer of words, with a chat template or without."""
    words = MARKERS + WORDS
    words += [f"word{at}" for at in range(size - len(words))]
    special = [
        {"id": at, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for at, token in enumerate(MARKERS)
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(words)}, "unk_token": "<unk>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **({"chat_template": template} if chats else {}), **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_opt(folder, rows, width=16, layers=1):
    """An OPT with random weights."""
    numbers = numpy.random.default_rng(0)
    inner, positions = 2 * width, 64
    tensors = {
        "model.decoder.embed_tokens.weight": (rows, width),
        "model.decoder.embed_positions.weight": (positions + 2, width),
        "model.decoder.final_layer_norm.weight": (width,),
        "model.decoder.final_layer_norm.bias": (width,),
    }
    for at in range(layers):
        block = f"model.decoder.layers.{at}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            tensors[f"{block}self_attn.{name}.weight"], tensors[f"{block}self_attn.{name}.bias"] = (width, width), (width,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            tensors[f"{block}{name}.weight"], tensors[f"{block}{name}.bias"] = (width,), (width,)
        tensors[f"{block}fc1.weight"], tensors[f"{block}fc1.bias"] = (inner, width), (inner,)
        tensors[f"{block}fc2.weight"], tensors[f"{block}fc2.bias"] = (width, inner), (width,)
    write_safetensors(folder / "model.safetensors", {name: 0.3 * numbers.standard_normal(shape) for name, shape in tensors.items()})
    config = {
        "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": rows, "hidden_size": width, "word_embed_proj_dim": width,
        "ffn_dim": inner, "num_attention_heads": 2, "num_hidden_layers": layers, "max_position_embeddings": positions,
        "do_layer_norm_before": True, "activation_function": "relu", "tie_word_embeddings": True, "dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A decoder with a tokenizer, whose vocabulary is small."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tokenizer(folder, 100)
    write_opt(folder, 104)
    return folder


@pytest.fixture(scope="session", autouse=True)
def hub():
    """A cache of the Hub that knows `facebook/opt-125m`: as many tokens and rows as that has, and few other weights."""
    model = Path(HOME.name) / "hub" / "models--facebook--opt-125m"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    folder = model / "snapshots" / "abc"
    folder.mkdir(parents=True)
    write_tokenizer(folder, TOKENS)
    write_opt(folder, ROWS)
    return folder


@pytest.fixture
def rows():
    """Rows of text with two words that are to become tokens."""
    return [{"prompt": "what is two plus two", "completion": f"<a> {word} </a>"} for word in ("four", "three", "two", "many") * 4]


def expected(fixture):
    """What PEFT came to on a committed model."""
    return json.loads((FIXTURES / fixture / "expected.json").read_text())


def ids_rows(fixture):
    """The rows of a committed model."""
    return [json.loads(line) for line in (FIXTURES / fixture / "rows.jsonl").read_text().splitlines()]
