"""Makes the inputs that the fuzz targets start from: small sound files of every kind.

    python fuzz/make_corpus.py

They need the packages of tools/fixtures/requirements.txt. What a target's input looks like is said in its file.
"""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

FUZZ = Path(__file__).parent
FIXTURE = FUZZ.parent / "crates/toktune/tests/fixtures/llama_tied/adapter"


def put(target, name, data):
    folder = FUZZ / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def safetensors():
    tensors = {"w": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    tensors["w8"] = torch.ones(2, 2).to(torch.float8_e4m3fn)
    put("safetensors", "plain", save(tensors, {"format": "pt"}))


def gguf():
    path = FUZZ / "corpus/gguf/blocks"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_tensor("norm", np.ones(4, np.float32))
    generator = np.random.default_rng(0)
    for kind in ["Q4_0", "Q3_K", "IQ4_XS", "IQ2_XXS", "MXFP4"]:
        kind = GGMLQuantizationType[kind]
        entries, size = quants.GGML_QUANT_SIZES[kind]
        blocks = generator.integers(0, 256, (2, size), dtype=np.uint8)
        writer.add_tensor(f"blk.0.{kind.name}", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def torch_files():
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    tensors = {"w": base, "row": base[1], "t": base.t(), "h": torch.ones(2, dtype=torch.float16), "step": 3}
    for name, zipped in [("archive", True), ("stream", False)]:
        file = io.BytesIO()
        torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
        put("torch", name, file.getvalue())


def adapter():
    config, tensors = (FIXTURE / name for name in ["adapter_config.json", "adapter_model.safetensors"])
    put("adapter", "tokens", config.read_bytes() + b"\0" + tensors.read_bytes())
    lora = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    lora |= {"trainable_token_indices": [3], "rank_pattern": {"q_proj": 2}, "layers_to_transform": [0]}
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    rows = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.ones(32, 2)}
    put("adapter", "lora", json.dumps(lora).encode() + b"\0" + save(tensors | {rows: torch.ones(1, 32)}))


def tokenizer():
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages[0].content }}"}
    words = {"<s>": 0, "</s>": 1, "T": 2, "w": 3, "o": 4, "Tw": 5, "Two": 6, "s": 7}
    bpe = Tokenizer(models.BPE(words, [("T", "w"), ("Tw", "o")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel()
    bpe.add_special_tokens(["<s>", "</s>"])
    piece = Tokenizer(models.WordPiece({"[UNK]": 0, "two": 1, "##s": 2}, unk_token="[UNK]"))
    piece.normalizer = normalizers.BertNormalizer()
    piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    for name, made in [("bpe", bpe), ("wordpiece", piece)]:
        put("tokenizer", name, json.dumps(config).encode() + b"\0" + made.to_str().encode())


def template():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": []}]
    loop = (
        "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + loop.index %}"
        "<|{{ m['role'] | upper }}|>{% if m.content is not none %}{{ m.content.strip()[:5] }}{% else %}{{ m.tool_calls | tojson }}"
        "{% endif %}{% endfor %}{% generation %}{{ ns.n }}{% endgeneration %}{{ strftime_now('%Y') }}"
    )
    macro = "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(messages | length) }}{{ raise_exception('no') if false }}"
    for name, source in [("loop", loop), ("macro", macro)]:
        put("template", name, source.encode() + b"\0" + json.dumps(messages).encode())


def rows():
    lines = [
        {"text": "a"},
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        {"prompt": "a", "completion": "b"},
        {"messages": [{"role": "user", "content": "a"}]},
    ]
    for at, line in enumerate(lines):
        put("rows", f"line-{at}", b"jsonl\0" + json.dumps(line).encode() + b"\n")
    ids = [lines[1], {"input_ids": [4, 5], "second": [6]}]
    put("rows", "array", b"json\0" + json.dumps(ids).encode())
    text = "".join(json.dumps(line) + "\n" for line in ids).encode()
    put("rows", "gzip", b"jsonl.gz\0" + gzip.compress(text, mtime=0))
    put("rows", "csv", b"csv\0text,label\n\"a, b\",1\n")


for make in [safetensors, gguf, torch_files, adapter, tokenizer, template, rows]:
    make()
