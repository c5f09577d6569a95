"""The same job with HuggingFace PEFT, or with torch alone and the full embedding matrix.

The tokens are trained by TrainableTokens; with --lora beside LoRA on all linear layers; with --full every row of the embedding
matrix is, in the model's type. --checkpointing computes activations again in the backward pass, --compile has torch.compile
make kernels. --adapter goes on from a saved adapter, --out saves one. The rest is in torch_loop.py.
"""

import json

import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from transformers import AutoModelForCausalLM

import torch_loop

# batches before the first step with --compile: the first is compiled for its width, the second for any width
WARM_UP = 2


def flags(parser):
    parser.add_argument("--lora", type=int, default=0, help="the rank of LoRA beside the tokens")
    parser.add_argument("--full", action="store_true", help="the whole embedding matrix, without PEFT")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--seed", type=int, default=0, help="of a fresh adapter")
    parser.add_argument("--out", help="save the adapter here")


def trainable(base, args):
    """The model with what is trained: an adapter, or its own embedding matrix."""
    if args.full:
        base.requires_grad_(False)
        base.get_input_embeddings().weight.requires_grad_(True)
        return base
    if args.adapter:
        return PeftModel.from_pretrained(base, args.adapter, is_trainable=True)
    if not args.lora:
        return get_peft_model(base, TrainableTokensConfig(token_indices=args.token_ids))
    of = dict(r=args.lora, lora_alpha=2 * args.lora, lora_dropout=0.0, target_modules="all-linear")
    return get_peft_model(base, LoraConfig(**of, trainable_token_indices=args.token_ids, task_type="CAUSAL_LM"))


def main():
    args = torch_loop.arguments(__doc__, flags)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    if args.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = trainable(base, args)
    if args.compile:
        model.compile()
    found = torch_loop.train(model, args, WARM_UP if args.compile else 0)
    print(json.dumps({**found, "about": torch_loop.versions()}))
    if args.out:
        model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
