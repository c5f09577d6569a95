"""Who is told of a run, with the names of transformers' callbacks."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from .training_args import TrainingArguments

__all__ = ["EarlyStoppingCallback", "PrinterCallback", "ProgressCallback", "TrainerCallback", "TrainerControl", "TrainerState"]

logger = logging.getLogger("toktune")


@dataclass
class TrainerState:
    """How a run stands."""

    epoch: float | None = None
    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: float = 0
    logging_steps: int = 500
    train_batch_size: int | None = None
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_world_process_zero: bool = True
    is_local_process_zero: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)


@dataclass
class TrainerControl:
    """What a callback wants of the run."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False


class TrainerCallback:
    """Told of what happens in a run. Each method is given the arguments, the state and the control, and by keyword the `model`, the
    `processing_class` and what belongs to the event (`logs`, `metrics`). `control.should_training_stop = True` ends the run with its
    rows saved, and `control.should_save = True` writes a checkpoint."""

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The trainer is there."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The steps begin."""

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The run has ended."""

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An epoch begins."""

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An epoch has ended."""

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A step is about to be taken."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A step was taken."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Held-out rows were evaluated: `metrics`."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A checkpoint or the adapter was written."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Something was logged: `logs`."""


class EarlyStoppingCallback(TrainerCallback):
    """Ends a run when so many evaluations in a row were no better, by the loss."""

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float = 0.0) -> None:
        self.patience, self.threshold = early_stopping_patience, early_stopping_threshold
        self.best: float | None = None
        self.without_better, self.running = 0, False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.best, self.without_better, self.running = None, 0, True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.running = False

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = kwargs["metrics"].get("eval_loss")
        if not self.running or not state.global_step or loss is None:
            return
        if self.best is None or loss < self.best - self.threshold:
            self.best, self.without_better = loss, 0
            return
        self.without_better += 1
        control.should_training_stop |= self.without_better >= self.patience


class PrinterCallback(TrainerCallback):
    """Prints what is logged."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **kwargs: Any
    ) -> None:
        print(logs)


class ProgressCallback(TrainerCallback):
    """Shows a bar of the steps, in notebooks and terminals, by `tqdm`."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in (logs or {}).items()}
            self.bar.write(str(shown))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def usual(disable_tqdm: bool | None) -> TrainerCallback:
    """The bar where `tqdm` is installed and wanted, else lines."""
    if not disable_tqdm:
        try:
            import tqdm.auto  # noqa: F401
        except ImportError:
            return PrinterCallback()
        return ProgressCallback()
    return PrinterCallback()
