"""Every form of adapter across the border, both ways, compared by logits.

Small random models are made; each case is trained by toktune and by PEFT, and every adapter is loaded by both. The
largest difference of the logits, relative to the largest logit, must be below the tolerance, and PEFT must load
toktune's files without a warning about keys.

    cargo build --bin toktune --example logits
    python tools/interop/matrix.py [--target target/debug] [CASE ...]

Needs the versions of requirements.txt. The table it prints is in docs/peft-mapping.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils import logging

VOCABULARY = 90
TOKENS = [57, 3, 88]
ADDED = ["<calc>", "</calc>"]
LORA = ["--lora-r", "4", "--lora-alpha", "8", "--lora-learning-rate", "0.01"]


def make_model(folder, tied):
    torch.manual_seed(int(tied))
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def make_rows(path, tokens):
    torch.manual_seed(5)
    rows = []
    for length in (17, 9, 23, 12):
        ids = torch.randint(3, VOCABULARY, (length,)).tolist()
        ids[length // 3], ids[length // 2] = tokens[0], tokens[1]
        rows.append({"input_ids": ids, "labels": ids})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


SIDES = ("toktune", "PEFT")


class Case:
    """What is trained, told to both sides."""

    def __init__(self, tied, flags, config, resized=False, save_embedding_layers="no", sides=SIDES):
        self.tied, self.flags, self.config, self.sides = tied, flags, config, sides
        self.resized, self.save_embedding_layers = resized, save_embedding_layers


def ids(tokens):
    return ["--token-ids", ",".join(map(str, tokens))]


def added():
    return [flag for token in ADDED for flag in ("--add-token", token)]


NEW = [VOCABULARY, VOCABULARY + 1]
BOTH = ["embed_tokens", "lm_head"]
lora = lambda **more: LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **more)
rows_of = lambda tokens, **more: TrainableTokensConfig(token_indices=tokens, task_type="CAUSAL_LM", **more)

CASES = {
    "tied": Case(True, ids(TOKENS), lambda: rows_of(TOKENS)),
    "untied": Case(False, ids(TOKENS), lambda: rows_of(TOKENS)),
    "two targets, untied": Case(
        False, [*ids(TOKENS), "--target-modules", "embed_tokens,lm_head"], lambda: rows_of(TOKENS, target_modules=BOTH)
    ),
    # PEFT 0.21.2 makes such an adapter and fails in its forward pass ("wraps an unknown layer type")
    "two targets, tied": Case(
        True, [*ids(TOKENS), "--target-modules", "embed_tokens,lm_head"], None, sides=("toktune",)
    ),
    "head alone, tied": Case(
        True, [*ids(TOKENS), "--target-modules", "lm_head"], lambda: rows_of(TOKENS, target_modules=["lm_head"])
    ),
    "resized, tied": Case(True, added(), lambda: rows_of(NEW), resized=True),
    "resized, untied": Case(False, added(), lambda: rows_of(NEW, target_modules=BOTH), resized=True),
    "resized, whole embedding": Case(
        True, added(), lambda: rows_of(NEW), resized=True, save_embedding_layers="auto"
    ),
    "resized, whole embeddings, untied": Case(
        False, added(), lambda: rows_of(NEW, target_modules=BOTH), resized=True, save_embedding_layers="auto"
    ),
    "LoRA + tokens, tied": Case(
        True,
        [*ids(TOKENS), *LORA, "--lora-target-modules", "all-linear"],
        lambda: lora(target_modules="all-linear", trainable_token_indices=TOKENS),
    ),
    "LoRA + tokens, untied": Case(
        False,
        [*ids(TOKENS), *LORA, "--lora-target-modules", "q_proj,down_proj", "--target-modules", "embed_tokens,lm_head"],
        lambda: lora(
            target_modules=["q_proj", "down_proj"],
            trainable_token_indices={"embed_tokens": TOKENS, "lm_head": TOKENS},
        ),
    ),
    "LoRA + tokens, resized, whole embedding": Case(
        True,
        [*added(), *LORA],
        lambda: lora(trainable_token_indices=NEW),
        resized=True,
        save_embedding_layers="auto",
    ),
    "LoRA alone, rank-stabilised": Case(
        True, [*LORA, "--lora-use-rslora"], lambda: lora(use_rslora=True, target_modules=["q_proj", "v_proj"])
    ),
}


class Border:
    def __init__(self, target, folder):
        self.target, self.folder = Path(target), Path(folder)

    def call(self, program, *arguments):
        done = subprocess.run([self.target / program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{program} {' '.join(map(str, arguments))}\n{done.stderr}")
        return done.stdout

    def model(self, tied):
        folder = self.folder / "models" / ("tied" if tied else "untied")
        if not folder.exists():
            folder.mkdir(parents=True)
            make_model(folder, tied)
        return folder

    def trained_by_toktune(self, case, data, out):
        self.call(
            "toktune", "train", "--model", self.model(case.tied), "--data", data, "--output", out, "--batch-size", 2,
            "--max-steps", 4, "--learning-rate", 0.05, "--save-embedding-layers", case.save_embedding_layers,
            *case.flags,
        )

    def trained_by_peft(self, case, rows, out):
        torch.manual_seed(1)
        folder = self.model(case.tied)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if case.resized:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            tokenizer.add_tokens(ADDED)
            base.resize_token_embeddings(len(tokenizer))
        model = get_peft_model(base, case.config())
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
        for step in range(4):
            optimizer.zero_grad()
            row = rows[step % len(rows)]
            model(**{key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}).loss.backward()
            optimizer.step()
        model.save_pretrained(out, save_embedding_layers="auto" if case.save_embedding_layers == "auto" else False)
        if case.resized and case.save_embedding_layers == "no":
            tokenizer.save_pretrained(out)

    def in_peft(self, case, adapter, resized=False):
        base = self.model(case.tied)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if (adapter / "tokenizer.json").exists():
                model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32)
            else:
                base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
                if case.resized:
                    base.resize_token_embeddings(VOCABULARY + len(ADDED))
                model = PeftModel.from_pretrained(base, adapter)
        about_keys = [str(w.message) for w in seen if "adapter keys" in str(w.message)]
        if about_keys:
            sys.exit(f"PEFT warns about {adapter}: {about_keys}")
        return model.eval()

    def logits_of_toktune(self, model, data, *more):
        lines = self.call("examples/logits", model, data, *more).splitlines()
        return [torch.tensor(json.loads(line)) for line in lines]


def logits_of_peft(model, rows, **more):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row["input_ids"]]), **more).logits[0] for row in rows]


def difference(ours, theirs):
    """Largest difference, relative to the largest logit; rows of the vocabulary that one side alone has count."""
    worst = max((a - b).abs().max().item() if a.shape == b.shape else float("inf") for a, b in zip(ours, theirs))
    return worst / max(b.abs().max().item() for b in theirs)


def one_case(border, name, report):
    case = CASES[name]
    tokens = NEW if case.resized else TOKENS
    place = border.folder / name.replace(" ", "_").replace(",", "").replace("+", "and")
    place.mkdir()
    data = place / "rows.jsonl"
    rows = make_rows(data, tokens)
    if case.resized:
        # the command line trains on words when it adds tokens
        words = lambda row: " ".join((ADDED[i - VOCABULARY] if i >= VOCABULARY else f"w{i}") for i in row["input_ids"])
        (place / "text.jsonl").write_text("".join(json.dumps({"text": words(row)}) + "\n" for row in rows))
    for side in case.sides:
        adapter = place / side
        if side == "toktune":
            border.trained_by_toktune(case, place / "text.jsonl" if case.resized else data, adapter)
            if case.save_embedding_layers == "auto":
                for file in ("tokenizer.json", "tokenizer_config.json"):
                    (adapter / file).unlink(missing_ok=True)
        else:
            border.trained_by_peft(case, rows, adapter)
        model = border.in_peft(case, adapter)
        theirs = logits_of_peft(model, rows)
        ours = border.logits_of_toktune(border.model(case.tied), data, f"default={adapter}")
        report(name, side, difference(ours, theirs))
        if name == "head alone, tied":
            continue  # one matrix cannot hold two rows for a token: toktune refuses, PEFT changes the embedding too
        # merged by toktune, opened by transformers
        border.call(
            "toktune", "merge", "--model", border.model(case.tied), "--adapter", adapter, "--output", place / f"{side}-m"
        )
        merged = AutoModelForCausalLM.from_pretrained(place / f"{side}-m", dtype=torch.float32).eval()
        report(f"{name}, merged by toktune", side, difference(logits_of_peft(merged, rows), theirs))
        # merged by PEFT, opened by toktune
        model.merge_and_unload().save_pretrained(place / f"{side}-p")
        ours = border.logits_of_toktune(place / f"{side}-p", data)
        report(f"{name}, merged by PEFT", side, difference(ours, theirs))


def several_adapters(border, report):
    place = border.folder / "several"
    place.mkdir()
    data = place / "rows.jsonl"
    rows = make_rows(data, TOKENS)
    names = ["first", "second", "__base__", "first"]
    for side in SIDES:
        folders = {}
        for name, tokens in (("first", [57, 3]), ("second", [3, 88])):
            case = Case(
                True,
                [*ids(tokens), *LORA, "--lora-target-modules", "q_proj" if name == "first" else "o_proj"],
                lambda: lora(target_modules=["q_proj" if name == "first" else "o_proj"], trainable_token_indices=tokens),
            )
            folders[name] = place / f"{side}-{name}"
            if side == "toktune":
                border.trained_by_toktune(case, data, folders[name])
            else:
                border.trained_by_peft(case, rows, folders[name])
        base = AutoModelForCausalLM.from_pretrained(border.model(True), dtype=torch.float32)
        model = PeftModel.from_pretrained(base, folders["first"], adapter_name="first")
        model.load_adapter(folders["second"], adapter_name="second")
        model.eval()
        theirs = [logits_of_peft(model, [row], adapter_names=[name])[0] for row, name in zip(rows, names)]
        adapters = [f"{name}={folder}" for name, folder in folders.items()]
        ours = border.logits_of_toktune(border.model(True), data, *adapters, "--names", ",".join(names))
        report("several adapters in one batch", side, difference(ours, theirs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}; several")
    parser.add_argument("--target", default="target/debug", help="where cargo has put the programs")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    unknown = set(args.cases) - set(CASES) - {"several"}
    if unknown:
        parser.error(f"unknown case {sorted(unknown)[0]}")
    failed = []

    def report(case, side, found):
        if not found < args.tolerance:
            failed.append(case)
        print(f"| {case} | {side} | {found:.1e} |", flush=True)

    print("| case | trained by | largest difference of the logits, relative |\n| --- | --- | --- |")
    folder = tempfile.mkdtemp()
    try:
        border = Border(args.target, folder)
        for name in args.cases or [*CASES, "several"]:
            several_adapters(border, report) if name == "several" else one_case(border, name, report)
    finally:
        shutil.rmtree(folder)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
