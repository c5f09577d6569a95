"""The same job on Unsloth's CPU path: its loader, its chunked loss where the model allows it, the loop of torch_loop.py.

Unsloth trains LoRA; that of a saved --adapter goes on as with PEFT. Tokens alone are PEFT's TrainableTokens on Unsloth's
model. PEFT wraps the tied head of the tokens, and then Unsloth takes the ordinary loss; `chunked_loss` says which it was.
Gradient checkpointing, which Unsloth turns on by default, is off unless --checkpointing asks for it: without it a step is faster.

Unsloth wants its own environment: python3 -m venv V && V/bin/pip install unsloth==2026.10.9 unsloth_zoo==2026.10.9 'torch==2.14.*' peft==0.21.2 trl
"""

import json
import os
import tempfile

# before Unsloth is imported: it must look for nothing outside
os.environ.update(HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1")

from unsloth import FastLanguageModel  # noqa: E402  (it patches the packages below, which must come later)
from unsloth_zoo.cpu.ops import _plain_head_weight  # noqa: E402

import tokenizers  # noqa: E402
import torch  # noqa: E402
from peft import PeftModel, TrainableTokensConfig, get_peft_model  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

import torch_loop  # noqa: E402


def with_tokenizer(folder, spare):
    """A folder whose tokenizer Unsloth can load: the model's own, or one of no use for a model that has none."""
    if os.path.exists(os.path.join(folder, "tokenizer.json")):
        return folder
    words = tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), pad_token="<pad>", eos_token="<eos>").save_pretrained(spare)
    return spare


def loaded(args):
    with tempfile.TemporaryDirectory() as spare:
        base, _ = FastLanguageModel.from_pretrained(
            args.model,
            tokenizer_name=with_tokenizer(args.model, spare),
            max_seq_length=2048,
            dtype=getattr(torch, args.dtype),
            load_in_4bit=False,
            use_gradient_checkpointing=args.checkpointing,
        )
    if args.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    return base


def main():
    args = torch_loop.arguments(__doc__, lambda parser: parser.add_argument("--checkpointing", action="store_true"))
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    base = loaded(args)
    if args.adapter:
        model = PeftModel.from_pretrained(base, args.adapter, is_trainable=True)
    else:
        model = get_peft_model(base, TrainableTokensConfig(token_indices=args.token_ids, task_type="CAUSAL_LM"))
    # what Unsloth's own trainer turns on for every step
    can = bool(vars(base).get("_unsloth_cpu_chunked_ce")) and _plain_head_weight(base.get_output_embeddings()) is not None
    base._unsloth_cpu_chunked_ce_active = can
    found = torch_loop.train(model, args)
    print(json.dumps({**found, "chunked_loss": can, "about": torch_loop.versions("unsloth", "unsloth_zoo")}))


if __name__ == "__main__":
    main()
