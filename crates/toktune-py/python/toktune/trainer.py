"""Training, under the names of transformers' `Trainer`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import _toktune
from .arrays import numpy_of
from .data import TokenisedDataset, tokenise
from .errors import InputError, MissingFileError
from .interop import is_live, is_module
from .peft_model import PeftModel, base_name
from .processes import process
from .tokenizer import PreTrainedTokenizer, engine_tokenizer
from .trainer_callback import TrainerCallback, TrainerControl, TrainerState, logger, usual
from .training_args import TrainingArguments

__all__ = ["EvalPrediction", "PredictionOutput", "TrainOutput", "Trainer"]

# what a run leaves in its folder
_OWN_FILES = (
    "adapter_config.json", "adapter_model.safetensors", "train_log.jsonl", "README.md", "report.html", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


class TrainOutput(NamedTuple):
    """What a run came to."""

    global_step: int
    training_loss: float
    metrics: dict[str, Any]


class PredictionOutput(NamedTuple):
    """What a model makes of rows."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, Any]


class EvalPrediction(NamedTuple):
    """What `compute_metrics` is given: logits, or what `preprocess_logits_for_metrics` makes of them, and labels, both padded with -100."""

    predictions: Any
    label_ids: Any


class Trainer:
    """Trains the active adapter of a model.

    Args:
        model: a `PeftModel`, or a live model of PEFT on the CPU, which `train()` writes the trained rows and updates back into.
        args: the settings.
        train_dataset: any of `tokenise`'s kinds of data.
        eval_dataset: held-out rows of such a kind.
        processing_class: the tokenizer, of toktune or of transformers; `tokenizer` is its older name.
        callbacks: `TrainerCallback`s, or classes of them, beside the bar or the lines that are there anyway
            (`remove_callback(toktune.PrinterCallback)` takes those away).
        compute_metrics: makes further metrics of an `EvalPrediction`, at every evaluation. It needs the logits of all held-out rows at once,
            `[rows, longest, vocabulary]`, unless `preprocess_logits_for_metrics(logits, labels)` makes less of each batch.
        data_collator: of no account, since rows are never padded; of one that hides tokens (`mlm=True`) the probability is taken.

    Raises:
        TypeError: the model has no adapter; an argument of transformers that toktune has nothing for.
        InputError: a row is at fault.
    """

    def __init__(
        self,
        model: PeftModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Any = None,
        callbacks: list | None = None,
        tokenizer: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if is_live(model):
            # trained where it lies; its adapters get what was trained
            model = PeftModel.from_model(model)
        if not isinstance(model, PeftModel):
            what = "a model of PEFT or transformers" if is_module(model) else f"{type(model).__name__}"
            raise TypeError(f"model: expected what toktune.get_peft_model gives, found {what}")
        for name, value in {"model_init": model_init, **kwargs}.items():
            if value not in (None, (None, None)):
                raise TypeError(f"{name}: toktune's Trainer has nothing for it")
        self.model = model
        self.args = args if args is not None else TrainingArguments()
        if not isinstance(self.args, TrainingArguments):
            raise TypeError(f"args: expected toktune.TrainingArguments, found {type(self.args).__name__}")
        self.processing_class = processing_class if processing_class is not None else tokenizer
        self.data_collator = data_collator
        self.compute_metrics, self.preprocess_logits_for_metrics = compute_metrics, preprocess_logits_for_metrics
        # of several processes the first one speaks
        own = [usual(self.args.disable_tqdm)] if self.is_world_process_zero() else []
        self.callbacks: list[TrainerCallback] = own + [one() if isinstance(one, type) else one for one in callbacks or []]
        self.state, self.control = TrainerState(), TrainerControl()
        if self._lacks_eval_data(eval_dataset):
            raise InputError(f"eval_strategy={self.args.eval_strategy!r}: there is no eval_dataset")
        if type(self).compute_loss is not Trainer.compute_loss:
            raise TypeError("compute_loss: the loss is computed by toktune's engine, which calls no method of a subclass")
        self._options = {**self.args.data_options(), **self._of_collator()}
        self._tokenizer = engine_tokenizer(self.processing_class)
        self.train_dataset = self._read(train_dataset)
        self.eval_dataset = self._read(eval_dataset)
        self._tell("on_init_end")

    def is_world_process_zero(self) -> bool:
        """Whether this process writes what is written: the first of those that MPI has started, or the only one."""
        return process().rank == 0

    def is_local_process_zero(self) -> bool:
        """The same: what is written is written once."""
        return self.is_world_process_zero()

    def _lacks_eval_data(self, eval_dataset: Any) -> bool:
        """Whether held-out rows are to be evaluated that are not there."""
        return self.args.eval_strategy != "no" and eval_dataset is None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """There is none to call or to override: the engine computes the loss."""
        raise TypeError("compute_loss: the loss is computed by toktune's engine")

    def _of_collator(self) -> dict[str, Any]:
        """What of a collator of transformers acts on ragged rows."""
        if getattr(self.data_collator, "mlm", False):
            return {"mlm_probability": self.data_collator.mlm_probability}
        return {}

    def _read(self, dataset: Any) -> TokenisedDataset | None:
        if dataset is None or isinstance(dataset, TokenisedDataset):
            return dataset
        return tokenise(dataset, self.model, self._tokenizer, **self._options)

    @property
    def tokenizer(self) -> Any:
        """The older name of `processing_class`."""
        return self.processing_class

    def add_callback(self, callback: Any) -> None:
        """Adds a callback, or a class of one."""
        self.callbacks.append(callback() if isinstance(callback, type) else callback)

    def remove_callback(self, callback: Any) -> None:
        """Removes a callback, or those of a class."""
        kept = (lambda one: not isinstance(one, callback)) if isinstance(callback, type) else (lambda one: one is not callback)
        self.callbacks = [one for one in self.callbacks if kept(one)]

    def _tell(self, event: str, **kwargs: Any) -> None:
        for callback in self.callbacks:
            told = getattr(callback, event, None)
            if told is not None:
                control = told(self.args, self.state, self.control, model=self.model, processing_class=self.processing_class, **kwargs)
                if control is not None and not isinstance(control, TrainerControl):
                    raise TypeError(f"{type(callback).__name__}.{event}: expected None or the control, found {control!r}")
                self.control = control if control is not None else self.control

    def log(self, logs: dict[str, Any]) -> None:
        """Adds to `state.log_history`, and tells the callbacks."""
        told = {**logs, **({"epoch": self.state.epoch} if self.state.epoch is not None else {})}
        self.state.log_history.append({**told, "step": self.state.global_step})
        logger.info("step %d: %s", self.state.global_step, told)
        self._tell("on_log", logs=told)

    def train(self, resume_from_checkpoint: None | bool | str = None, **kwargs: Any) -> TrainOutput:
        """Trains to the end, or until a callback or Ctrl-C ends it, and saves the adapter, its tokenizer, log, model card and report
        into the output folder.

        Args:
            resume_from_checkpoint: True goes on from the last checkpoint in the output folder.

        Raises:
            KeyboardInterrupt: Ctrl-C, with a checkpoint and the rows so far saved, and in the model.
            OutputError: the output folder holds something else.
            DivergedError: the loss is no longer finite; the last good rows are saved.
        """
        data = self._train_data()
        engine, total = self._engine_arguments(resume_from_checkpoint, data)
        self._clear_output(engine)
        self.state = TrainerState(
            max_steps=total,
            num_train_epochs=self.args.num_train_epochs,
            logging_steps=int(self.args.logging_steps),
            train_batch_size=self.args.per_device_train_batch_size,
            epoch=0.0,
        )
        self.control = TrainerControl()
        begun = time.perf_counter()
        teller = _Teller(self, total, self.args.logging_steps)
        try:
            output = self._run(engine, teller)
        finally:
            if self.model._live is not None:
                self.model.to_peft()
            self._tell("on_train_end")
        return self._finish(output, teller, time.perf_counter() - begun)

    def _train_data(self) -> TokenisedDataset:
        if self.train_dataset is None:
            raise InputError("train_dataset: there is none")
        return self.train_dataset

    def _engine_arguments(self, resume: None | bool | str, data: TokenisedDataset) -> tuple[dict[str, Any], int]:
        per_epoch = data.describe()["examples_per_epoch"]
        engine = self.args.for_engine(per_epoch, self.eval_dataset is not None)
        resume = self.args.resume_from_checkpoint if resume is None else resume
        engine["resume"] = self._resumes(resume)
        _, total = _toktune.schedule(self.model._inner, json.dumps(engine), data._inner)
        return engine, total

    def _resumes(self, resume: Any) -> bool:
        """Whether to go on from the newest checkpoint; one that is named must be that."""
        if resume is None or isinstance(resume, bool):
            wanted = None
        elif isinstance(resume, (str, os.PathLike)):
            wanted = Path(resume)
        else:
            raise TypeError(f"resume_from_checkpoint: expected True or a checkpoint of the output folder, found {resume!r}")
        if not resume:
            return False
        if not self.is_world_process_zero():
            # the first process reads the checkpoint for all
            return True
        folder = Path(self.args.output_dir)
        there = sorted(
            folder.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")) if path.name[11:].isdigit() else -1
        )
        if not there:
            raise InputError(f"resume_from_checkpoint: {folder} holds no checkpoint to go on from")
        if wanted is None or wanted.resolve() == folder.resolve():
            return True
        if not wanted.is_dir():
            raise MissingFileError(f"resume_from_checkpoint: {wanted}: there is no such folder")
        if wanted.resolve() != there[-1].resolve():
            raise InputError(
                f"resume_from_checkpoint: {wanted} is not the newest checkpoint, {there[-1]}, which a run goes on from; remove what is newer"
            )
        return True

    def _clear_output(self, engine: dict[str, Any]) -> None:
        folder = Path(self.args.output_dir)
        if not self.is_world_process_zero():
            return
        if not self.args.overwrite_output_dir or engine["resume"] or not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.name in _OWN_FILES:
                path.unlink()
            elif path.is_dir() and path.name.startswith("checkpoint-"):
                shutil.rmtree(path)

    def _run(self, engine: dict[str, Any], teller: _Teller) -> dict[str, Any]:
        # a tokenizer is saved where tokens were added to it, which the adapter cannot be read without
        saved = self._tokenizer if self._saves_tokenizer() else None
        return json.loads(
            _toktune.train(
                self.model._inner,
                json.dumps(engine),
                self._train_data()._inner,
                None if self.eval_dataset is None else self.eval_dataset._inner,
                saved,
                teller,
                base_name=base_name(self.model.name_or_path),
                tensorboard=self.args.is_reported_to("tensorboard"),
                report=self.args.report,
                command=" ".join(sys.argv) if sys.argv and sys.argv[0] else None,
            )
        )

    def _saves_tokenizer(self) -> bool:
        if isinstance(self.processing_class, PreTrainedTokenizer):
            return self.processing_class._changed
        return self._tokenizer is not None and self._tokenizer.sizes()[1] > self.model._described()["stored_rows"]

    def _finish(self, output: dict[str, Any], teller: _Teller, seconds: float) -> TrainOutput:
        self.state.global_step = output["global_step"]
        if output["best_step"] is not None:
            self.state.best_global_step, self.state.best_metric = output["best_step"], output["best_loss"]
        loss = teller.mean_loss()
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(teller.examples() / seconds, 3),
            "train_steps_per_second": round(output["steps"] / seconds, 3),
            "train_loss": loss,
            "train_tokens": output["tokens"],
            "train_tokens_per_second": round(output["tokens"] / max(output["seconds"], 1e-9), 1),
            "peak_memory_bytes": output["peak_memory_bytes"],
        }
        self.log({name: metrics[name] for name in ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")})
        return TrainOutput(output["global_step"], loss, {**metrics, "epoch": self.state.epoch})

    def evaluate(self, eval_dataset: Any = None, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, Any]:
        """Loss and perplexity of held-out rows, and the loss where a trained token is the label."""
        dataset = self._read(eval_dataset) if eval_dataset is not None else self.eval_dataset
        if dataset is None:
            raise InputError("eval_dataset: there is none")
        begun = time.perf_counter()
        found = json.loads(_toktune.evaluate(self.model._engine(), dataset._inner, self.args.eval_batch_size))
        metrics = {**evaluated(found, metric_key_prefix), **self._computed(dataset, metric_key_prefix)}
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - begun, 4)
        self.log(metrics)
        self._tell("on_evaluate", metrics=metrics)
        return metrics

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test") -> PredictionOutput:
        """The logits of rows, `[rows, longest, vocabulary]`, their labels, `[rows, longest]`, both padded with -100, and their loss as
        `evaluate` has it. What `preprocess_logits_for_metrics` makes of each batch takes the logits' place."""
        dataset = self._read(test_dataset)
        if dataset is None:
            raise InputError("test_dataset: there is none")
        predictions, labels = self._predictions(dataset)
        found = json.loads(_toktune.evaluate(self.model._engine(), dataset._inner, self.args.eval_batch_size))
        metrics = evaluated(found, metric_key_prefix)
        if self.compute_metrics is not None:
            computed = self.compute_metrics(EvalPrediction(predictions, labels))
            metrics.update(prefixed(computed, metric_key_prefix))
        return PredictionOutput(predictions, labels, metrics)

    def _predictions(self, dataset: TokenisedDataset) -> tuple[Any, Any]:
        """What the model makes of rows, and their labels, both padded with -100."""
        import numpy

        if self.model.kind == "pairs":
            raise InputError("a model of sentence pairs gives vectors, encode(), and no logits")
        predictions, labels = [], []
        size = self.args.eval_batch_size
        for begin in range(0, len(dataset), size):
            examples = [dataset[at] for at in range(begin, min(begin + size, len(dataset)))]
            targets = [example["labels"] for example in examples]
            ids = [example["input_ids"] for example in examples]
            logits = [numpy_of(array) for array in _toktune.logits(self.model._engine(), ids, targets, None)]
            made, wanted = stacked(logits), stacked([numpy.array(row, dtype=numpy.int64) for row in targets])
            if self.preprocess_logits_for_metrics is not None:
                made = numpy.asarray(self.preprocess_logits_for_metrics(made, wanted))
            predictions.extend(made)
            labels.extend(wanted)
        return stacked(predictions), stacked(labels)

    def _computed(self, dataset: TokenisedDataset | None, prefix: str) -> dict[str, Any]:
        """What `compute_metrics` makes of rows."""
        if self.compute_metrics is None or dataset is None:
            return {}
        return prefixed(self.compute_metrics(EvalPrediction(*self._predictions(dataset))), prefix)

    def log_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Prints metrics, one a line."""
        if not self.is_world_process_zero():
            return
        widest = max((len(name) for name in metrics), default=0)
        print(f"***** {split} metrics *****")
        for name in sorted(metrics):
            print(f"  {name:<{widest}} = {metrics[name]}")

    def save_metrics(self, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
        """Writes metrics into `SPLIT_results.json` in the output folder, and into `all_results.json` beside those of other splits."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}_results.json").write_text(json.dumps(metrics, indent=4, sort_keys=True), encoding="utf-8")
        if combined:
            path = folder / "all_results.json"
            before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            path.write_text(json.dumps({**before, **metrics}, indent=4, sort_keys=True), encoding="utf-8")

    def emission(self, eval_dataset: Any = None, *, prompts: int = 30) -> dict[str, Any]:
        """Whether the trained tokens are written where they belong: of each its rank and probability there, how often the model writes it
        by itself on held-out prompts, and its probability where it does not belong."""
        dataset = self._read(eval_dataset) if eval_dataset is not None else self.eval_dataset
        if dataset is None:
            raise InputError("eval_dataset: there is none")
        return json.loads(_toktune.emission(self.model._engine(), dataset._inner, prompts, self._tokenizer))

    def save_model(self, output_dir: str | None = None, **kwargs: Any) -> None:
        """Writes the adapter, and its tokenizer where tokens were added; of several processes the first one does."""
        if not self.is_world_process_zero():
            return
        folder = os.fspath(output_dir or self.args.output_dir)
        self.model.save_pretrained(folder, save_embedding_layers=self.args.save_embedding_layers)
        if self._tokenizer is not None and self._saves_tokenizer():
            self._tokenizer.save(folder)

    def save_state(self) -> None:
        """Writes `trainer_state.json`, as transformers does."""
        if not self.is_world_process_zero():
            return
        with open(os.path.join(self.args.output_dir, "trainer_state.json"), "w", encoding="utf-8") as out:
            json.dump(self.state.to_dict(), out, indent=2)

    def to_peft(self) -> Any:
        """A live PEFT model with what was trained, over the transformers model that it was trained over."""
        return self.model.to_peft()


def prefixed(metrics: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Metrics of one's own by the names that logs have."""
    return {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in metrics.items()}


def stacked(rows: list[Any]) -> Any:
    """Arrays that may differ in their first size as one, filled up with -100."""
    import numpy

    if not rows or rows[0].ndim == 0:
        return numpy.array(rows)
    longest = max(row.shape[0] for row in rows)
    whole = numpy.full((len(rows), longest, *rows[0].shape[1:]), -100, dtype=rows[0].dtype)
    for at, row in enumerate(rows):
        whole[at, : row.shape[0]] = row
    return whole


def evaluated(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """An evaluation by the names that logs have."""
    kept = {name: value for name, value in found.items() if name not in ("tokens", "labels") and value is not None}
    return {f"{prefix}_{name}": value for name, value in kept.items()}


class _Teller:
    """Makes transformers' events of what the engine tells."""

    def __init__(self, trainer: Trainer, total: int, logging_steps: float) -> None:
        self.trainer, self.total = trainer, total
        self.every = max(1, int(logging_steps * total) if 0 < logging_steps < 1 else int(logging_steps) or 1)
        self.losses: list[float] = []
        self.since: list[float] = []
        self.epoch = 0
        self.strategy = trainer.args.logging_strategy

    def mean_loss(self) -> float:
        return sum(self.losses) / len(self.losses) if self.losses else 0.0

    def examples(self) -> int:
        args = self.trainer.args
        return len(self.losses) * args.per_device_train_batch_size * args.gradient_accumulation_steps

    def _answer(self) -> tuple[bool, bool]:
        control = self.trainer.control
        saves, control.should_save = control.should_save, False
        return control.should_training_stop, saves

    def train_begin(self, step: int) -> tuple[bool, bool]:
        self.trainer.state.global_step = step
        self.trainer._tell("on_train_begin")
        self.trainer._tell("on_epoch_begin")
        self.trainer._tell("on_step_begin")
        return self._answer()

    def step(self, told: str) -> tuple[bool, bool]:
        log, trainer = json.loads(told), self.trainer
        state = trainer.state
        state.global_step, state.epoch = log["step"], log["epoch"]
        self.losses.append(log["loss"])
        self.since.append(log["loss"])
        trainer._tell("on_step_end")
        epoch = int(state.epoch + 1e-9)
        due = {"no": False, "epoch": epoch > self.epoch}.get(self.strategy, state.global_step % self.every == 0)
        due = (
            due
            or (self.strategy != "no" and state.global_step == self.total)
            or (trainer.args.logging_first_step and state.global_step == 1)
        )
        if due or trainer.control.should_log:
            trainer.control.should_log = False
            mean = sum(self.since) / len(self.since)
            self.since = []
            more = {name: log[name] for name in log if name.startswith(("rewards/", "logps/"))}
            trainer.log({"loss": mean, "grad_norm": log["grad_norm"], "learning_rate": log["learning_rate"], **more})
        if epoch > self.epoch:
            self.epoch = epoch
            trainer._tell("on_epoch_end")
            if state.global_step < self.total:
                trainer._tell("on_epoch_begin")
        if state.global_step < self.total:
            trainer._tell("on_step_begin")
        return self._answer()

    def evaluated(self, step: int, told: str) -> tuple[bool, bool]:
        self.trainer.state.global_step = step
        metrics = {**evaluated(json.loads(told), "eval"), **self.trainer._computed(self.trainer.eval_dataset, "eval")}
        state, name = self.trainer.state, (self.trainer.args.metric_for_best_model or "loss").removeprefix("eval_")
        found = metrics.get(f"eval_{name}")
        if step and found is not None:
            better = state.best_metric is None or (found < state.best_metric if name == "loss" else found > state.best_metric)
            if better:
                state.best_metric, state.best_global_step = found, step
                state.best_model_checkpoint = os.path.join(self.trainer.args.output_dir, f"checkpoint-{step}")
        self.trainer.log(metrics)
        self.trainer._tell("on_evaluate", metrics=metrics)
        return self._answer()

    def saved(self, folder: Any) -> tuple[bool, bool]:
        self.trainer._tell("on_save")
        return self._answer()

    def warning(self, text: str) -> tuple[bool, bool]:
        logger.warning(text)
        return self._answer()
