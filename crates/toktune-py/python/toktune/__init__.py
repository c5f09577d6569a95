"""Teach a language model new tokens, and nothing else: PEFT's Trainable Tokens, on a Rust engine, under the names of PEFT and
transformers.

    from toktune import AutoModelForCausalLM, AutoTokenizer, Recipe, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained("path/to/model")
    tokenizer = AutoTokenizer.from_pretrained("path/to/model")
    model = Recipe(add_tokens=["<calc>", "</calc>"]).apply(model, tokenizer)
    trainer = Trainer(model, TrainingArguments("adapter"), train_dataset="rows.jsonl", processing_class=tokenizer)
    trainer.train()

Nothing else is imported with it: numpy when numbers are asked for, torch, transformers and PEFT when an object of theirs comes.
"""

from ._toktune import __version__, instruction_set, num_threads, set_num_threads
from .configuration import LoraConfig, PeftConfig, PeftType, TaskType, TrainableTokensConfig
from .data import TokenisedDataset, tokenise
from .errors import DivergedError, Error, FileError, InputError, MissingFileError, OutputError
from .generation import GenerationConfig
from .modeling import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
)
from .peft_model import (
    AutoPeftModel,
    AutoPeftModelForCausalLM,
    AutoPeftModelForFeatureExtraction,
    AutoPeftModelForSeq2SeqLM,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
    set_seed,
)
from .recipe import Recipe
from .tokenizer import AddedToken, AutoTokenizer, BatchEncoding, PreTrainedTokenizer
from .tools import combine, distill, preview, run_command
from .trainer import EvalPrediction, PredictionOutput, Trainer, TrainOutput
from .trainer_callback import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from .training_args import TrainingArguments

__all__ = [
    "AddedToken", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM", "AutoPeftModel",
    "AutoPeftModelForCausalLM", "AutoPeftModelForFeatureExtraction", "AutoPeftModelForSeq2SeqLM", "AutoTokenizer", "BatchEncoding",
    "DivergedError", "EarlyStoppingCallback", "Error", "EvalPrediction", "FileError", "GenerationConfig", "InputError", "LoraConfig", "MissingFileError",
    "OutputError", "PeftConfig", "PeftModel", "PeftType", "PreTrainedModel", "PreTrainedTokenizer", "PredictionOutput", "PretrainedConfig",
    "PrinterCallback", "ProgressCallback", "Recipe", "TaskType", "TokenisedDataset", "TrainOutput", "TrainableTokensConfig", "Trainer",
    "TrainerCallback", "TrainerControl", "TrainerState", "TrainingArguments", "__version__", "combine", "distill", "get_peft_model",
    "get_peft_model_state_dict", "instruction_set", "num_threads", "preview", "run_command", "set_num_threads",
    "set_peft_model_state_dict", "set_seed", "tokenise",
]  # fmt: skip
