"""The settings of a run, under the names of transformers' `TrainingArguments`."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, dataclass, fields
from typing import Any

from .errors import InputError
from .processes import process

__all__ = ["TrainingArguments"]

# what changes nothing of what is learnt, here or at all: accepted, kept, and not acted on
_HARMLESS = frozenset(
    [
        "per_device_eval_batch_size",
        "hub_strategy",
        "hub_private_repo",
        "hub_always_push",
        "hub_revision",
        "debug",
        "ddp_backend",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "include_for_metrics",
        "eval_do_concat_batches",
        "use_cache",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "liger_kernel_config",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "dataloader_in_order",
        "dataloader_multiprocessing_context",
        "sortish_sampler",
        "past_index",
        "jit_mode_eval",
        "use_ipex",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "remove_unused_columns",
        "label_names",
        "logging_dir",
        "run_name",
        "group_by_length",
        "length_column_name",
        "use_cpu",
        "no_cuda",
        "fp16_full_eval",
        "bf16_full_eval",
        "tf32",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "ddp_find_unused_parameters",
        "ddp_timeout",
        "local_rank",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "skip_memory_metrics",
        "save_safetensors",
        "eval_accumulation_steps",
        "include_num_input_tokens_seen",
        "include_tokens_per_second",
        "torch_empty_cache_steps",
        "prediction_loss_only",
        "logging_nan_inf_filter",
        "do_train",
        "do_eval",
        "do_predict",
        "average_tokens_across_devices",
        "enable_jit_checkpoint",
        "ignore_data_skip",
        "restore_callback_states_from_checkpoint",
        "accelerator_config",
        "save_on_each_node",
        "use_liger_kernel",
        "half_precision_backend",
        "batch_eval_metrics",
        "eval_on_start",
        "hub_token",
        "use_legacy_prediction_loop",
        "full_determinism",
    ]
)

# what would change it, with the values that do not, and why another is refused
_REFUSED: dict[str, tuple[tuple, str]] = {
    "optim": (("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw"), "toktune trains with AdamW"),
    "adam_beta1": ((0.9,), "toktune's AdamW has beta1 0.9"),
    "adam_beta2": ((0.999,), "toktune's AdamW has beta2 0.999"),
    "adam_epsilon": ((1e-8,), "toktune's AdamW has epsilon 1e-8"),
    "fp16": ((False, None), "toktune multiplies in f32 or bf16"),
    "label_smoothing_factor": ((0, 0.0), "toktune smooths the labels of preference data alone (label_smoothing)"),
    "neftune_noise_alpha": ((None,), "toktune adds no noise to embeddings"),
    "dataloader_drop_last": ((False,), "toktune trains on the last, smaller batch too"),
    "push_to_hub": ((False,), "toktune uploads nothing; the output folder is what PEFT's push_to_hub takes"),
    "hub_model_id": ((None,), "toktune uploads nothing"),
    "deepspeed": ((None,), "toktune trains in one process"),
    "fsdp": (("", None, [], False), "toktune trains in one process"),
    "fsdp_config": ((None,), "toktune trains in one process"),
    "parallelism_config": ((None,), "toktune trains in one process"),
    "auto_find_batch_size": ((False,), "a step's memory is told before it is taken; memory_budget bounds it"),
    "lr_scheduler_kwargs": ((None, {}), "the schedules have no further settings"),
    "optim_target_modules": ((None,), "toktune trains with AdamW"),
    "data_seed": ((None,), "the order of the rows follows from `seed`"),
    "eval_delay": ((0, None), "held-out rows are evaluated from the first step on"),
    "optim_args": ((None, ""), "toktune's AdamW has no further settings"),
    "save_only_model": ((False,), "a checkpoint holds what the run goes on from, which is little"),
    "torchdynamo": ((None,), "there is no graph to compile"),
}  # fmt: skip

_EXPECTED_SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


# settings that are whole numbers, others, and those that are yes or no
_WHOLE = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "save_total_limit",
    "early_stopping_patience",
    "max_length",
)
_NUMBERS = (
    "num_train_epochs", "learning_rate", "relative_learning_rate", "lora_learning_rate", "warmup_steps", "warmup_ratio", "weight_decay",
    "max_grad_norm", "eval_steps", "save_steps", "logging_steps", "beta", "label_smoothing",
)  # fmt: skip
_FLAGS = (
    "load_best_model_at_end",
    "share_prefixes",
    "report",
    "save_embedding_layers",
    "overwrite_output_dir",
    "bf16",
    "disable_tqdm",
    "logging_first_step",
)


def number(name: str, value: Any, whole: bool) -> Any:
    """A setting as a number of Python's own, from one of numpy too."""
    if value is None or isinstance(value, str):
        if value is None:
            return None
        raise TypeError(f"{name}={value!r}: expected a number")
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r}: expected a number")
    if value != value or value in (float("inf"), float("-inf")):
        raise InputError(f"{name}: expected a finite number, found {value}")
    if whole and value != int(value):
        raise TypeError(f"{name}={value!r}: expected a whole number")
    if value < 0 and name not in ("max_steps",) or value >= 1 << 63:
        raise InputError(f"{name}: expected at least 0, found {value}")
    return int(value) if whole else value


@dataclass(init=False)
class TrainingArguments:
    """The settings of a run. Names, meanings and defaults are those of transformers, but for the learning rate: nothing means a tenth of
    the root mean square of the embedding's entries, since a rate for whole models hardly moves a few rows.

    Attributes:
        output_dir: a folder for the adapter, its log, checkpoints and report.
        num_train_epochs, max_steps: the length; `max_steps` wins where it is above 0.
        per_device_train_batch_size, gradient_accumulation_steps: rows of a micro-step, and micro-steps of an optimizer step.
        learning_rate: the highest rate of the tokens' rows.
        lora_learning_rate: that of LoRA's updates (2e-4 where nothing is said).
        lr_scheduler_type: `"linear"`, `"cosine"`, `"constant"` or `"constant_with_warmup"`.
        warmup_steps, warmup_ratio: steps, or a share of them, over which the rate rises from 0.
        weight_decay, max_grad_norm: of AdamW, and of clipping.
        seed: of the order of the rows.
        train_sampling_strategy: `"random"`, or `"sequential"` for the rows' own order.
        eval_strategy, eval_steps: `"no"`, `"steps"` or `"epoch"`; with `eval_dataset` there is an evaluation before and after in any case.
        save_strategy, save_steps, save_total_limit: of checkpoints; `"no"`, `"steps"` or `"epoch"`.
        logging_strategy, logging_steps, logging_first_step: how often a line is logged: `"no"`, `"steps"` or `"epoch"`.
        load_best_model_at_end, metric_for_best_model: keep what gave the best evaluation, by `"loss"` or `"emission"`.
        early_stopping_patience: end when so many evaluations in a row were no better.
        report_to: `"tensorboard"` writes event files; `"none"` writes none.
        disable_tqdm: no progress bar.
        bf16: True multiplies in bf16, False in f32; nothing decides by the weights and the processor.
        norm: `"free"`, `"fixed"` or `"clamp:X"`: what becomes of the rows' norms.
        memory_budget: `"free"`, `"min"`, or bytes: what of a step is kept instead of being computed again.
        cache_constants: `"ram"` or a folder: keep what does not depend on the rows from one epoch to the next.
        share_prefixes: compute what rows begin with alike once.
        report: write `report.html`.
        save_embedding_layers: store whole embeddings with the adapter.
        overwrite_output_dir: take away what an earlier run left in the output folder.
        max_length, loss_on, text_key, prompt_key, completion_key: how rows are read.
        beta, loss_type, label_smoothing: of preference data, by TRL's names.

    Raises:
        TypeError: an argument that neither knows, or one of transformers that would change the result and that toktune has nothing for.
    """

    output_dir: str = "trainer_output"
    num_train_epochs: float = 3.0
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float | None = None
    relative_learning_rate: float | None = None
    lora_learning_rate: float | None = None
    lr_scheduler_type: str = "linear"
    warmup_steps: int | float = 0
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 42
    train_sampling_strategy: str = "random"
    eval_strategy: str = "no"
    eval_steps: float | None = None
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    logging_steps: float = 500
    logging_strategy: str = "steps"
    logging_first_step: bool = False
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    early_stopping_patience: int | None = None
    report_to: None | str | list[str] = None
    disable_tqdm: bool | None = None
    bf16: bool | None = None
    resume_from_checkpoint: str | bool | None = None
    norm: str | None = None
    memory_budget: str | int = "free"
    cache_constants: str | None = None
    share_prefixes: bool = True
    report: bool = True
    save_embedding_layers: bool = False
    overwrite_output_dir: bool = False
    max_length: int | None = None
    loss_on: str | None = None
    text_key: str | None = None
    prompt_key: str | None = None
    completion_key: str | None = None
    beta: float | None = None
    loss_type: str | None = None
    label_smoothing: float | None = None

    def __init__(self, output_dir: str | None = None, **arguments: Any) -> None:
        if output_dir is not None:
            arguments["output_dir"] = output_dir
        if "evaluation_strategy" in arguments:
            arguments["eval_strategy"] = arguments.pop("evaluation_strategy")
        known = [one.name for one in fields(self)]
        for one in fields(self):
            default = one.default if one.default is not MISSING else None
            setattr(self, one.name, arguments.pop(one.name, default))
        for name, value in arguments.items():
            if name in _REFUSED:
                accepted, reason = _REFUSED[name]
                if getattr(value, "value", value) not in accepted:
                    raise TypeError(f"{name}={value!r}: {reason}")
            elif name not in _HARMLESS:
                near = difflib.get_close_matches(name, [*known, *_HARMLESS, *_REFUSED], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"TrainingArguments has no argument {name!r}{hint}")
            setattr(self, name, value)
        for name in ("lr_scheduler_type", "eval_strategy", "save_strategy", "logging_strategy", "train_sampling_strategy"):
            value = getattr(self, name)
            setattr(self, name, str(getattr(value, "value", value)))
        self.check()

    def check(self) -> None:
        """Checks what is said by names."""
        choices = {
            "lr_scheduler_type": _EXPECTED_SCHEDULES,
            "eval_strategy": ("no", "steps", "epoch"),
            "save_strategy": ("no", "steps", "epoch", "best"),
            "logging_strategy": ("no", "steps", "epoch"),
            "train_sampling_strategy": ("random", "sequential", "group_by_length"),
        }
        for name, expected in choices.items():
            if getattr(self, name) not in expected:
                raise TypeError(f"{name}={getattr(self, name)!r}: expected {', '.join(expected)}")
        if self.metric_for_best_model not in (None, "loss", "eval_loss", "emission", "eval_emission"):
            raise TypeError(f"metric_for_best_model={self.metric_for_best_model!r}: expected loss or emission")
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        if unknown := [where for where in named if where not in ("none", "all", "tensorboard")]:
            raise TypeError(f"report_to={unknown[0]!r}: toktune writes event files for tensorboard; expected tensorboard or none")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), (bool, type(None))):
                raise TypeError(f"{name}={getattr(self, name)!r}: expected True or False")
        for name in (*_WHOLE, *_NUMBERS):
            setattr(self, name, number(name, getattr(self, name), name in _WHOLE))
        if not 0 <= self.warmup_ratio <= 1:
            raise TypeError(f"warmup_ratio={self.warmup_ratio!r}: expected a share from 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        """Every setting."""
        return dict(vars(self))

    @property
    def eval_batch_size(self) -> int:
        """Rows that are evaluated at a time."""
        return getattr(self, "per_device_eval_batch_size", 8)

    @property
    def train_batch_size(self) -> int:
        """Rows of a micro-step."""
        return self.per_device_train_batch_size

    @property
    def precision(self) -> str:
        """How products are taken."""
        return "auto" if self.bf16 is None else "bf16" if self.bf16 else "f32"

    @property
    def world_size(self) -> int:
        """How many processes MPI has started."""
        return process().count

    @property
    def process_index(self) -> int:
        """Which of them this one is."""
        return process().rank

    def is_reported_to(self, where: str) -> bool:
        """Whether `report_to` names it."""
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        return where in named or "all" in named

    def data_options(self) -> dict[str, Any]:
        """How rows are read."""
        names = ("max_length", "loss_on", "text_key", "prompt_key", "completion_key", "seed")
        return {name: getattr(self, name) for name in names}

    def for_engine(self, examples_per_epoch: int, with_eval: bool) -> dict[str, Any]:
        """As the engine takes it, for data of this size."""
        batches = -(-examples_per_epoch // self.per_device_train_batch_size) if self.per_device_train_batch_size else 1
        per_epoch = max(1, -(-batches // self.gradient_accumulation_steps)) if self.gradient_accumulation_steps else 1
        fixed = self.max_steps if self.max_steps > 0 else None
        total = fixed or max(1, -(-self.num_train_epochs * per_epoch // 1))
        every = lambda of: max(1, int(of * total)) if 0 < of < 1 else int(of)
        # transformers' `constant` knows no warm-up
        warmup = (
            0
            if self.lr_scheduler_type == "constant"
            else self.warmup_steps
            if self.warmup_steps >= 1
            else -(-total * max(self.warmup_steps, self.warmup_ratio) // 1)
        )
        evaluations = {
            "no": None,
            "epoch": per_epoch,
            "steps": every(self.eval_steps if self.eval_steps is not None else self.logging_steps),
        }
        saves = {"no": None, "epoch": per_epoch, "steps": every(self.save_steps), "best": None}
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        return {
            "output_dir": str(self.output_dir),
            "per_device_train_batch_size": self.per_device_train_batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "num_train_epochs": float(self.num_train_epochs),
            "max_steps": fixed,
            "learning_rate": self.learning_rate,
            "relative_learning_rate": self.relative_learning_rate,
            "lora_learning_rate": self.lora_learning_rate,
            "lr_scheduler_type": "constant" if self.lr_scheduler_type == "constant_with_warmup" else self.lr_scheduler_type,
            "warmup_steps": int(warmup),
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm or 0.0,
            "norm": self.norm,
            "shuffle": self.train_sampling_strategy != "sequential",
            "seed": self.seed,
            "eval_steps": evaluations[self.eval_strategy] if with_eval else None,
            "load_best_model_at_end": self.load_best_model_at_end or self.save_strategy == "best",
            "metric_for_best_model": metric,
            "early_stopping_patience": self.early_stopping_patience,
            "save_steps": saves[self.save_strategy],
            "save_total_limit": self.save_total_limit,
            "resume": False,
            "save_embedding_layers": self.save_embedding_layers,
            "memory_budget": str(self.memory_budget),
            "cache_constants": None if self.cache_constants is None else (str(self.cache_constants), 8 << 30),
            "share_prefixes": self.share_prefixes,
            "beta": self.beta,
            "loss_type": self.loss_type,
            "label_smoothing": self.label_smoothing,
        }
