"""Adapters of older PEFT releases: each is written by that release and its logits compared with toktune's.

    pip install --target OLD --no-deps peft==0.15.0 transformers==4.51.3 tokenizers==0.21.4 huggingface_hub==0.36.0
    cargo build --example logits
    python tools/interop/releases.py --peft OLD [--target target/debug]

`--peft` names a folder with the release (and the transformers it needs), torch is the running interpreter's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
VOCABULARY = 90


def configs(peft, tokens):
    return {
        "tokens": peft.TrainableTokensConfig(token_indices=tokens),
        "LoRA + tokens": peft.LoraConfig(
            r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": tokens}
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peft", required=True)
    parser.add_argument("--target", default="target/debug")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    sys.path.insert(0, args.peft)
    import peft
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, LlamaConfig, logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    failed = 0
    with tempfile.TemporaryDirectory() as top:
        for tied in (True, False):
            base = Path(top) / ("tied" if tied else "untied")
            config = LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=32, intermediate_size=56, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
                tie_word_embeddings=tied, rope_theta=10000.0,
            )
            model = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for p in (p for p in model.parameters() if p.dim() == 2):
                    p.copy_(0.2 * torch.randn_like(p))
            model.save_pretrained(base)
            for resized in (False, True):
                tokens = [VOCABULARY + 1, 3] if resized else [57, 3]
                for name, adapter_config in configs(peft, tokens).items():
                    model = AutoModelForCausalLM.from_pretrained(base)
                    if resized:
                        model.resize_token_embeddings(VOCABULARY + 2)
                    model = peft.get_peft_model(model, adapter_config).eval()
                    with torch.no_grad():
                        for p in (p for p in model.parameters() if p.requires_grad):
                            p.add_(0.1 * torch.randn_like(p))
                    adapter = Path(top) / f"{base.name}-{resized}-{name.replace(' ', '')}"
                    model.save_pretrained(adapter)
                    ids = [5, tokens[0], 3, 20, 8]
                    (adapter / "rows.jsonl").write_text(json.dumps({"input_ids": ids}) + "\n")
                    with torch.no_grad():
                        theirs = model(input_ids=torch.tensor([ids])).logits[0]
                    command = [f"{args.target}/examples/logits", base, adapter / "rows.jsonl", f"default={adapter}"]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(done.stderr)
                    ours = torch.tensor(json.loads(done.stdout))
                    if resized and not any("lm_head" in key for key in load_file(adapter / "adapter_model.safetensors")):
                        # this form lacks the new rows of an untied head, which nobody can know
                        ours, theirs = ours[:, :VOCABULARY], theirs[:, :VOCABULARY]
                    found = ((ours - theirs).abs().max() / theirs.abs().max()).item()
                    failed += not found < args.tolerance
                    whole = ", resized, whole embedding" if resized else ""
                    print(f"| {peft.__version__} | {name}, {base.name}{whole} | {found:.1e} |", flush=True)
    sys.exit(f"{failed} differ" if failed else 0)


if __name__ == "__main__":
    main()
