"""What `toktune export` writes, loaded by the programs that serve it: PEFT and llama.cpp.

Adapters are made by PEFT with rows far from the base's; each form is exported and loaded, and its logits are compared with those
of the adapter itself (PEFT) or with toktune's on the same file (llama.cpp).

    cargo build --release --bin toktune --example logits
    pip install llama-cpp-python==0.3.36 gguf==0.19.0
    python tools/interop/serving.py --smollm2 DIR --gemma DIR --smollm2-gguf FILE --gemma-gguf FILE

The folders and files are those that `bench/run.sh` prepares; without one of them its cases are left out. Needs the versions of
requirements.txt beside. The table it prints is in docs/serving.md.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import gguf
import numpy as np
import torch
from llama_cpp import Llama
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils import logging

ADDED = ["<calc>", "</calc>"]
TEXT = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
# weights and bytes of a block
BLOCKS = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
}


def difference(ours, theirs):
    """The largest difference, and the same relative to the largest logit."""
    worst = max((a - b).abs().max().item() if a.shape == b.shape else float("inf") for a, b in zip(ours, theirs))
    return worst, worst / max(b.abs().max().item() for b in theirs)


class Place:
    """The programs and a folder for what they write."""

    def __init__(self, args, folder):
        self.toktune, self.logits, self.folder = args.toktune, args.logits, Path(folder)

    def call(self, *arguments, fails=None):
        done = subprocess.run([*map(str, arguments)], capture_output=True, text=True)
        if (done.returncode != 0) != (fails is not None):
            sys.exit(f"{' '.join(map(str, arguments))}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        if fails is not None and fails not in done.stderr:
            sys.exit(f"expected {fails!r} in\n{done.stderr}")
        return done.stdout

    def export(self, model, adapter, form, output, fails=None):
        output = self.folder / output
        arguments = ["export", "--model", model, "--adapter", adapter, "--to", form, "--output", output]
        self.call(self.toktune, *arguments, fails=fails)
        return output

    def logits_of_toktune(self, model, rows, adapter=None):
        data = self.folder / "rows.jsonl"
        data.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
        more = [f"default={adapter}"] if adapter else []
        lines = self.call(self.logits, model, data, *more).splitlines()
        return [torch.tensor(json.loads(line)) for line in lines]


def logits_of_peft(model, rows):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0].float() for row in rows]


def logits_of_llama_cpp(path, rows, adapter=None):
    """llama.cpp's, with the adapter of a file if there is one."""
    # keys and values in f32, as toktune has them
    options = {"n_ctx": 256, "n_threads": 2, "logits_all": True, "verbose": False, "type_k": 0, "type_v": 0}
    model = Llama(str(path), lora_path=adapter and str(adapter), **options)
    found = []
    for row in rows:
        model.reset()
        model.eval(row)
        found.append(torch.tensor(model.scores[: len(row)].copy()))
    model.close()
    return found


def in_f32(path):
    """A copy of a GGUF file with its matrices decoded: llama.cpp then rounds no activations to 8 bits."""
    copy = path.with_suffix(".f32.gguf")
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(copy, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return copy


def both(path, rows, expected, adapter=None):
    """How far llama.cpp is from what is expected, on a file as it is and on its copy in f32."""
    copy = in_f32(path)
    found = [difference(logits_of_llama_cpp(file, rows, adapter), expected) for file in (path, copy)]
    copy.unlink()
    return found


def far_rows(weight, tokens, seed):
    """Rows for tokens that are far from those of the matrix, and as large."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(tokens), weight.shape[1], generator=generator) * weight.float().pow(2).mean().sqrt()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trained(base, tokens, lora=False, head=False):
    """The base with rows for tokens, and LoRA beside them."""
    if lora:
        config = LoraConfig(
            r=4, lora_alpha=10, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM",
            trainable_token_indices={"embed_tokens": tokens, "lm_head": tokens} if head else tokens,
        )
    else:
        target = ["embed_tokens", "lm_head"] if head else None
        config = TrainableTokensConfig(token_indices=tokens, target_modules=target, task_type="CAUSAL_LM")
    torch.manual_seed(2)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                matrix = base.get_output_embeddings() if "lm_head" in name else base.get_input_embeddings()
                weight = matrix.base_layer.weight if hasattr(matrix, "base_layer") else matrix.weight
                parameter.copy_(far_rows(weight, tokens, len(name)))
            elif "lora_" in name:
                parameter.mul_(0.2)
    return model.eval()


def one_hot(place, report, name, folder, rows_of, lora=False, added=False):
    """Rows as LoRA, both in PEFT."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = load(folder)
    untied = base.get_input_embeddings().weight is not base.get_output_embeddings().weight
    if added:
        tokenizer.add_tokens(ADDED)
        base.resize_token_embeddings(max(len(tokenizer), base.get_input_embeddings().weight.shape[0]))
        tokens = tokenizer.convert_tokens_to_ids(ADDED)
    else:
        tokens = list(dict.fromkeys(rows_of(tokenizer)[0][2:5]))
    rows = rows_of(tokenizer)
    rows[0][4], rows[-1][3] = tokens[0], tokens[-1]
    adapter = place.folder / f"{name} adapter".replace(" ", "_")
    trained(base, tokens, lora, untied).save_pretrained(adapter, save_embedding_layers=False)
    if added:
        tokenizer.save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    served = place.export(folder, adapter, "lora-onehot", f"{name} served".replace(" ", "_"))
    opened = lambda folder: AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = logits_of_peft(opened(adapter), rows)
    found = logits_of_peft(opened(served), rows)
    # transformers starts the rows of a resize at the mean with noise, which the differences cannot know
    report("lora-onehot", name, "PEFT, the adapter itself", difference(found, expected), None, 1e-4 if added else 1e-5)
    small = place.export(folder, adapter, "peft", f"{name} small".replace(" ", "_"))
    report("peft", name, "PEFT, the adapter itself", difference(logits_of_peft(opened(small), rows), expected))


def texts(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    return [list(ids[:20]), list(ids[4:18])]


def file_case(place, report, name, folder, file, tolerance):
    """A GGUF file of a real model with its rows patched, in llama.cpp."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = load(folder)
    known = texts(tokenizer)[0][6]
    # the second token is special, as control tokens are
    tokenizer.add_tokens([ADDED[0], AddedToken(ADDED[1], special=True)])
    tokens = [known, *tokenizer.convert_tokens_to_ids(ADDED)]
    base.resize_token_embeddings(max(len(tokenizer), base.get_input_embeddings().weight.shape[0]))
    model = trained(base, tokens)
    # the first token is written where the model would have written another
    prompt = tokenizer("The capital of France is")["input_ids"]
    with torch.no_grad(), model.disable_adapter():
        top = model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax().item()
    row = base.get_output_embeddings().weight[top].float() * 1.5
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "trainable_tokens_delta" in key:
                parameter[1] = row
    adapter = place.folder / f"{name}_file_adapter"
    model.save_pretrained(adapter, save_embedding_layers=False)
    tokenizer.save_pretrained(adapter)
    patched = place.export(file, adapter, "gguf", f"{name}_patched.gguf")
    rows = texts(tokenizer)
    bare = [[token for token in row if token != known] for row in rows]
    base_logits = logits_of_llama_cpp(file, bare)
    vocabulary = base_logits[0].shape[1]
    same = [torch.cat([x[:, :known], x[:, known + 1 : vocabulary]], 1) for x in logits_of_llama_cpp(patched, bare)]
    base_logits = [torch.cat([x[:, :known], x[:, known + 1 :]], 1) for x in base_logits]
    report("gguf", f"{name}, text without trained tokens", "llama.cpp, the file as it was", difference(same, base_logits))
    rows[0][5], rows[1][3], rows[1][7] = tokens[1], tokens[2], tokens[1]
    found, exact = both(patched, rows, place.logits_of_toktune(patched, rows))
    report("gguf", name, "llama.cpp, toktune", found, exact, tolerance)
    reader = Llama(str(patched), n_ctx=256, n_threads=2, verbose=False)
    text = f"half{ADDED[0]} of{ADDED[1]}"
    ids = reader.tokenize(text.encode(), add_bos=False, special=True)
    assert [ids.count(token) for token in tokens[1:]] == [1, 1], (ids, tokens)
    ids = reader.tokenize(text.encode(), add_bos=False, special=False)
    assert [ids.count(token) for token in tokens[1:]] == [1, 0], "a control token is none in a user's text"
    assert reader.detokenize([tokens[1]]) == ADDED[0].encode()
    written = reader("The capital of France is", max_tokens=1, temperature=0)["choices"][0]["text"]
    assert written == ADDED[0], written
    reader.close()
    print(f"| gguf | {name}: {ADDED[0]} and {ADDED[1]} | llama.cpp reads each as one token and writes {written} | | |", flush=True)
    place.export(file, adapter, "gguf-lora", f"{name}_lora.gguf", fails="--to gguf")


def byte_level():
    """A tokenizer of bytes, as GPT-2's without merges but one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "th", "<|end|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")
    return fast, list(vocabulary)


def make_small(folder, tied):
    tokenizer, vocabulary = byte_level()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=256, tie_word_embeddings=tied,
        bos_token_id=len(vocabulary) - 1, eos_token_id=len(vocabulary) - 1,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rounded(name, values):
    """Blocks of a type, by ggml's reference functions."""
    length, size = BLOCKS[name]
    library = ctypes.CDLL(str(Path(find_spec("llama_cpp").origin).parent / "lib/libggml-base.so"))
    function = getattr(library, f"quantize_row_{name.lower().replace('_k', '_K')}_ref")
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    values = np.ascontiguousarray(values, np.float32)
    out = np.zeros((values.shape[0], values.shape[1] // length * size), np.uint8)
    function(values.ctypes.data, out.ctypes.data, values.size)
    return out


def write_small(folder, path, embedding, head):
    """The small model as llama.cpp's converter writes it, its token matrices in these types."""
    model = load(folder)
    config, weights = model.config, {k: v.numpy() for k, v in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(256)
    writer.add_block_count(2)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(64)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = byte_level()[1]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * (len(vocabulary) - 1) + [3])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(len(vocabulary) - 1)
    writer.add_eos_token_id(len(vocabulary) - 1)
    writer.add_add_bos_token(False)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }

    def add(name, values, kind):
        if kind in BLOCKS:
            writer.add_tensor(name, rounded(kind, values), raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            writer.add_tensor(name, values.astype({"F32": np.float32, "F16": np.float16}[kind]))

    for key, values in weights.items():
        stem = key.removesuffix(".weight").removeprefix("model.")
        if stem == "embed_tokens":
            add("token_embd.weight", values, embedding)
        elif stem == "lm_head":
            if head:
                add("output.weight", values, head)
        elif stem == "norm":
            add("output_norm.weight", values, "F32")
        else:
            _, block, part = stem.split(".", 2)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = values.shape[0] // 64
                values = values.reshape(heads, 2, 32, 256).swapaxes(1, 2).reshape(values.shape)
            add(f"blk.{block}.{names[part]}.weight", values, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def small_files(place, report):
    """Every type of rows, tied and untied, patched and as a GGUF adapter."""
    folder = place.folder / "small"
    make_small(folder, tied=False)
    tokens, rows = [104, 7, 33], [[5, 104, 9, 33, 80, 7, 61, 104, 12], [33, 1, 2, 3, 7]]
    adapters = {}
    for name, lora in (("rows", False), ("rows and LoRA", True)):
        adapters[name] = place.folder / f"small_{name}".replace(" ", "_")
        trained(load(folder), tokens, lora, head=True).save_pretrained(adapters[name], save_embedding_layers=False)
    types = ["F32", "F16", *BLOCKS]
    for at, embedding in enumerate(types):
        head = types[(at + 3) % len(types)] if at else "F32"
        file = place.folder / f"small_{embedding}.gguf"
        write_small(folder, file, embedding, head)
        name = f"small untied Llama, {embedding} and {head}"
        patched = place.export(file, adapters["rows"], "gguf", f"small_{embedding}_patched.gguf")
        report("gguf", name, "llama.cpp, toktune", *both(patched, rows, place.logits_of_toktune(patched, rows)))
        if embedding in ("F32", "Q4_K"):
            for kind, adapter in adapters.items():
                lora = place.export(file, adapter, "gguf-lora", f"small_{embedding}_{len(kind)}.gguf")
                expected = place.logits_of_toktune(file, rows, adapter)
                report("gguf-lora", f"{name}, {kind}", "llama.cpp, toktune", *both(file, rows, expected, lora))


TIED = """
import sys
from llama_cpp import Llama
Llama(sys.argv[1], n_ctx=64, lora_path=sys.argv[2], verbose=False).eval([5, 6, 7])
"""


def tied_adapter(place):
    """That llama.cpp does end at a tied model's adapter for `token_embd.weight`."""
    folder, file, lora = place.folder / "tied", place.folder / "tied.gguf", place.folder / "tied_lora.gguf"
    make_small(folder, tied=True)
    write_small(folder, file, "F32", None)
    writer = gguf.GGUFWriter(lora, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    rows = len(byte_level()[1])
    writer.add_tensor("token_embd.weight.lora_a", np.zeros((rows, 2), np.float32))
    writer.add_tensor("token_embd.weight.lora_b", np.zeros((256, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = subprocess.run([sys.executable, "-c", TIED, str(file), str(lora)], capture_output=True, text=True)
    assert done.returncode != 0 and "GGML_ASSERT" in done.stderr, done
    print("| gguf-lora | small tied Llama | llama.cpp ends at the first token (GGML_ASSERT); toktune refuses | | |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toktune", default="target/release/toktune")
    parser.add_argument("--logits", default="target/release/examples/logits")
    for name in ("smollm2", "gemma", "smollm2-gguf", "gemma-gguf"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).absolute())
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(2)
    failed = []

    def report(form, name, against, found, exact=None, tolerance=1e-5):
        """The last of the differences must be within the tolerance, relative to the largest logit."""
        failed.extend([f"{form}, {name}"] if not (exact or found)[1] <= tolerance else [])
        in_f32 = f"{exact[0]:.1e} ({exact[1]:.1e})" if exact else ""
        print(f"| {form} | {name} | {against} | {found[0]:.1e} ({found[1]:.1e}) | {in_f32} |", flush=True)

    print("| form | model | compared | largest difference of the logits (relative) | the same on the file's copy in f32 |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        place = Place(args, folder)
        small_files(place, report)
        tied_adapter(place)
        plain = lambda tokenizer: [[5, 104, 9, 33, 80, 7, 61], [33, 1, 2, 3, 7]]
        one_hot(place, report, "small untied Llama", place.folder / "small", plain)
        one_hot(place, report, "small untied Llama, LoRA beside", place.folder / "small", plain, lora=True)
        for name, model, file, tolerance in (
            ("SmolLM2-135M", args.smollm2, args.smollm2_gguf, 1e-5),
            # ggml looks GELU up in a table of half precision
            ("Gemma-3-270M", args.gemma, args.gemma_gguf, 5e-3),
        ):
            if model:
                one_hot(place, report, name, model, texts)
                one_hot(place, report, f"{name}, LoRA beside", model, texts, lora=True)
                one_hot(place, report, f"{name}, added tokens", model, texts, added=True)
            if model and file:
                file_case(place, report, name, model, file, tolerance)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
