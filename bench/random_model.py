"""A folder with the config of a shape (models.py) and random bf16 weights. Run by the peer's interpreter.

Each tensor is drawn from a seed of its own name and written in a shard with its neighbours, so that no more than one shard is
ever in memory and the weights do not depend on how they are cut.
"""

import argparse
import hashlib
import json
import os

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from models import SHAPES

# Bytes of a shard, unless one tensor has more.
SHARD = 512 << 20


def tensors_of(config):
    """Names and shapes of what a checkpoint holds: a tied head is not among it."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = set(model.all_tied_weights_keys)
    embedding = model.get_input_embeddings().weight
    return [(name, p.shape, p is embedding) for name, p in model.named_parameters() if name not in tied]


def filled(name, size, std, config):
    """Norms and biases as a fresh model has them (Gemma's norms are stored as what is added to 1), the rest normal."""
    if len(size) == 1:
        ones = name.endswith("weight") and config.model_type != "gemma2"
        return torch.full(size, float(ones), dtype=torch.bfloat16)
    source = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
    return torch.empty(size, dtype=torch.bfloat16).normal_(0.0, std, generator=source)


def shards(tensors):
    """The tensors in groups of at most SHARD bytes."""
    group, size = [], 0
    for tensor in tensors:
        own = 2 * tensor[1].numel()
        if group and size + own > SHARD:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += own
    yield group


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder")
    args = parser.parse_args()

    shape = SHAPES[args.shape]
    config = getattr(transformers, shape.config_class)(**shape.config)
    std = getattr(config, "initializer_range", None) or config.init_std
    os.makedirs(args.folder, exist_ok=True)
    groups = list(shards(tensors_of(config)))
    placed, size = {}, 0
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        held = {name: filled(name, of, shape.embedding_std if embedding else std, config) for name, of, embedding in group}
        save_file(held, os.path.join(args.folder, file), {"format": "pt"})
        placed.update(dict.fromkeys(held, file))
        size += sum(2 * t.numel() for t in held.values())
    with open(os.path.join(args.folder, "model.safetensors.index.json"), "w") as out:
        json.dump({"metadata": {"total_size": size}, "weight_map": placed}, out, indent=1)
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    config.dtype = "bfloat16"
    config.save_pretrained(args.folder)


if __name__ == "__main__":
    main()
