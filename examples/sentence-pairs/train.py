"""Teaches a sentence encoder sixteen new words by pairs of sentences, and opens what is merged in sentence-transformers.

    python3 examples/sentence-pairs/make_pairs.py pairs
    python3 examples/sentence-pairs/train.py path/to/all-MiniLM-L6-v2 pairs

Where `sentence-transformers` is not installed, the last line is left out.
"""

import importlib.util
import json
import sys

from make_pairs import MEDICINES

from toktune import AutoModel, AutoTokenizer, Recipe, Trainer, TrainingArguments

path, folder = sys.argv[1:]


def pairs(name):
    """(anchor, positive) of each line."""
    with open(f"{folder}/{name}.jsonl", encoding="utf-8") as file:
        return [(row["anchor"], row["positive"]) for row in map(json.loads, file)]


tokenizer = AutoTokenizer.from_pretrained(path)
model = Recipe(add_tokens=list(MEDICINES)).apply(AutoModel.from_pretrained(path), tokenizer)
args = TrainingArguments(
    "medicines", per_device_train_batch_size=16, per_device_eval_batch_size=16, num_train_epochs=20, logging_strategy="no",
    overwrite_output_dir=True,
)  # fmt: skip
heldout = pairs("heldout")
trainer = Trainer(model, args, train_dataset=pairs("train"), eval_dataset=heldout, processing_class=tokenizer)
before = trainer.evaluate()["eval_nearest"]
trainer.train()
after = trainer.evaluate()["eval_nearest"]
print(f"the nearest of sixteen is the right one: {before:.1%} before, {after:.1%} after")
model.merge_to_folder("medicines-merged", tokenizer=tokenizer)

if importlib.util.find_spec("sentence_transformers"):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer("medicines-merged", device="cpu")
    found = 0
    for at in range(0, len(heldout), 16):
        anchors, positives = (plain.encode(list(texts), normalize_embeddings=True) for texts in zip(*heldout[at : at + 16]))
        found += sum(int(row.argmax()) == place for place, row in enumerate(anchors @ positives.T))
    print(f"in sentence-transformers: {found} of {len(heldout)}")
