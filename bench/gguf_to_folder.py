"""A GGUF file as a HuggingFace folder in bf16, which is what PEFT trains. Run by the peer's interpreter.

transformers reads the file itself; its result still says that it is quantized, so the weights are put into a fresh model.
"""

import argparse
import copy
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("folder")
    args = parser.parse_args()

    source = {"pretrained_model_name_or_path": os.path.dirname(os.path.abspath(args.gguf))}
    source["gguf_file"] = os.path.basename(args.gguf)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config).to(torch.float32)
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)


if __name__ == "__main__":
    main()
