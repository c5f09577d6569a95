"""Training: PEFT's losses, the command line's bits, and the habits of transformers' Trainer."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest
import toktune
from conftest import expected, ids_rows
from toktune import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LoraConfig,
    PeftModel,
    Recipe,
    TrainableTokensConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_peft_model,
    get_peft_model_state_dict,
)


def arguments(folder, **more):
    usual = {"max_steps": 6, "lr_scheduler_type": "constant", "logging_steps": 1, "report": False, "disable_tqdm": True, "bf16": False}
    return TrainingArguments(str(folder), **{**usual, **more})


@pytest.mark.parametrize("fixture", ["llama_tied", "opt_125m", "gemma3", "bert", "t5", "bart"])
def test_six_steps_are_pefts(fixture, fixtures, tmp_path):
    about = expected(fixture)
    config = TrainableTokensConfig(token_indices=about["token_indices"], target_modules=about.get("target_modules"))
    model = get_peft_model(AutoModel.from_pretrained(fixtures / fixture, precision="f32"), config)
    args = arguments(
        tmp_path / "out",
        learning_rate=about["learning_rate"],
        per_device_train_batch_size=about["batch_size"],
        train_sampling_strategy="sequential",
        max_grad_norm=0,
    )
    # the rows again and again, as many as six steps take
    rows, wanted = ids_rows(fixture), 6 * about["batch_size"]
    trainer = Trainer(model, args, train_dataset=(rows * wanted)[:wanted])
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses == pytest.approx(about["losses"], rel=1e-5)


def test_a_run_is_that_of_the_command_line_bit_for_bit(tiny, rows, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = Recipe(add_tokens=["<a>", "</a>"], lora=lora).apply(AutoModelForCausalLM.from_pretrained(tiny), tokenizer)
    args = TrainingArguments(
        str(tmp_path / "python"),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        warmup_steps=2,
        lr_scheduler_type="cosine",
        report=False,
    )
    Trainer(model, args, train_dataset=data, processing_class=tokenizer).train()
    flags = ["--add-token", "<a>", "--add-token", "</a>", "--lora-r", "4", "--lora-target-modules", "all-linear", "--lora-dropout", "0.1"]
    flags += ["--num-epochs", "2", "--batch-size", "4", "--warmup-steps", "2", "--lr-scheduler", "cosine", "--report", "false"]
    command = [sys.executable, "-m", "toktune", "train", "--model", tiny, "--data", data, "--output", tmp_path / "command", *flags]
    subprocess.run(command, check=True, capture_output=True)
    read = lambda name: [(tmp_path / where / name).read_bytes() for where in ("python", "command")]
    python, command = read("adapter_model.safetensors")
    assert python == command
    python, command = read("tokenizer.json")
    assert python == command


def make(tiny, rows, folder, callbacks=None, eval_dataset=None, **more):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = Recipe(add_tokens=["<a>", "</a>"]).apply(AutoModelForCausalLM.from_pretrained(tiny), tokenizer)
    return Trainer(
        model,
        arguments(folder, **more),
        train_dataset=rows,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def test_the_history_is_transformers(tiny, rows, tmp_path):
    trainer = make(tiny, rows, tmp_path / "out", eval_dataset=rows[:4], eval_strategy="steps", eval_steps=3, max_steps=6)
    output = trainer.train()
    history = trainer.state.log_history
    losses = [log for log in history if "loss" in log]
    assert [log["step"] for log in losses] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "grad_norm", "learning_rate", "epoch", "step"} <= losses[0].keys()
    assert [log["step"] for log in history if "eval_loss" in log] == [0, 3, 6]
    assert history[-1]["train_loss"] == pytest.approx(output.training_loss) and output.global_step == 6
    assert output.training_loss == pytest.approx(sum(log["loss"] for log in losses) / 6)
    assert losses[-1]["loss"] < losses[0]["loss"]
    evaluated = trainer.evaluate()
    assert evaluated["eval_loss"] == pytest.approx([log for log in history if "eval_loss" in log][-1]["eval_loss"], rel=1e-6)
    emitted = trainer.emission(prompts=4)
    assert [token["token"] for token in emitted["tokens"]] == ["<a>", "</a>"] and emitted["prompts"] == 4


def test_what_is_saved_is_what_is_in_the_model(tiny, rows, tmp_path):
    trainer = make(tiny, rows, tmp_path / "out")
    before = {key: value.copy() for key, value in get_peft_model_state_dict(trainer.model).items()}
    trainer.train()
    after = get_peft_model_state_dict(trainer.model, save_embedding_layers=False)
    assert all((before[key] != value).any() for key, value in after.items())
    again = toktune.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    found = get_peft_model_state_dict(again, save_embedding_layers=False)
    assert found.keys() == after.keys() and all((found[key] == value).all() for key, value in after.items())
    over = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "out")
    ids = [[5, 6, 7, trainer.model.token_indices[0]]]
    assert (over(ids).logits == trainer.model(ids).logits).all()


class Stop(TrainerCallback):
    def __init__(self, at):
        self.at, self.seen = at, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(state.global_step)
        control.should_training_stop = state.global_step >= self.at

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        # the model can be looked at while it is trained
        self.text = model.generate([[5, 6]], max_new_tokens=2)
        self.loss = metrics["eval_loss"]


def test_a_callback_ends_a_run_that_goes_on_later(tiny, rows, tmp_path):
    stop = Stop(2)
    trainer = make(tiny, rows, tmp_path / "out", callbacks=[stop], eval_dataset=rows[:4])
    assert trainer.train().global_step == 2
    assert stop.seen == [1, 2] and stop.text.shape == (1, 4) and stop.loss > 0
    again = make(tiny, rows, tmp_path / "out")
    assert again.train(resume_from_checkpoint=True).global_step == 6
    whole = make(tiny, rows, tmp_path / "whole")
    whole.train()
    read = lambda folder: (tmp_path / folder / "adapter_model.safetensors").read_bytes()
    assert read("out") == read("whole")


class Events(TrainerCallback):
    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda *args, **kwargs: self.events.append(name)
        return super().__getattribute__(name)


def test_every_event_is_told_in_its_order(tiny, rows, tmp_path):
    told = Events()
    make(tiny, rows, tmp_path / "out", callbacks=[told], max_steps=2, per_device_train_batch_size=8).train()
    events = [event for event in told.events if event not in ("on_log", "on_save")]
    assert events == [
        "on_init_end", "on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_step_begin", "on_step_end", "on_epoch_end",
        "on_train_end",
    ]  # fmt: skip


def test_what_a_callback_raises_reaches_the_caller_and_the_model_is_back(tiny, rows, tmp_path):
    class Fault(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("a fault of the callback")

    trainer = make(tiny, rows, tmp_path / "out", callbacks=[Fault])
    with pytest.raises(RuntimeError, match="a fault of the callback"):
        trainer.train()
    assert trainer.model.generate([[5]], max_new_tokens=1).shape == (1, 2)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_ctrl_c_keeps_the_rows(tiny, rows, tmp_path):
    class Press(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    trainer = make(tiny, rows, tmp_path / "out", callbacks=[Press], max_steps=1000)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert 3 <= trainer.state.global_step < 10
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert make(tiny, rows, tmp_path / "out", max_steps=1000).args.output_dir


def test_other_threads_run_meanwhile(tiny, rows, tmp_path):
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        make(tiny, rows, tmp_path / "out", max_steps=50).train()
    finally:
        done.set()
        thread.join()
    assert len(ticks) > 5


def test_the_model_of_a_run_cannot_be_changed(tiny, rows, tmp_path):
    class Change(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            model.delete_adapter("default")

    with pytest.raises(toktune.InputError, match="being trained"):
        make(tiny, rows, tmp_path / "out", callbacks=[Change]).train()


def test_the_report_and_the_log_are_written(tiny, rows, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="toktune"):
        make(tiny, rows, tmp_path / "out", report=True, report_to="tensorboard").train()
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    assert list((tmp_path / "out").rglob("events.out.tfevents*"))
    assert len((tmp_path / "out" / "train_log.jsonl").read_text().splitlines()) == 6
    assert any("loss" in record.message for record in caplog.records)


def test_an_output_folder_is_not_written_over_unless_that_is_said(tiny, rows, tmp_path):
    make(tiny, rows, tmp_path / "out").train()
    with pytest.raises(toktune.OutputError, match="not empty") as fault:
        make(tiny, rows, tmp_path / "out").train()
    assert isinstance(fault.value, FileExistsError)
    make(tiny, rows, tmp_path / "out", overwrite_output_dir=True).train()


def test_early_stopping_and_checkpoints(tiny, rows, tmp_path):
    stop = toktune.EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=1e9)
    trainer = make(tiny, rows, tmp_path / "out", callbacks=[stop], eval_dataset=rows[:4], eval_strategy="steps", eval_steps=1, max_steps=50)
    assert trainer.train().global_step == 3
    trainer = make(tiny, rows, tmp_path / "kept", save_steps=2, save_total_limit=1)
    trainer.train()
    assert [path.name for path in (tmp_path / "kept").glob("checkpoint-*")] == ["checkpoint-6"]


def test_arguments_that_would_change_the_result_are_refused():
    for name, value in {"optim": "sgd", "fp16": True, "label_smoothing_factor": 0.1, "adam_beta1": 0.8, "fsdp": "full_shard"}.items():
        with pytest.raises(TypeError, match=name):
            TrainingArguments("out", **{name: value})
    with pytest.raises(TypeError, match="did you mean learning_rate"):
        TrainingArguments("out", learning_rat=1)
    with pytest.raises(TypeError, match="lr_scheduler_type"):
        TrainingArguments("out", lr_scheduler_type="polynomial")
    kept = TrainingArguments("out", dataloader_num_workers=4, gradient_checkpointing=True, optim="adamw_torch", adam_beta1=0.9)
    assert kept.dataloader_num_workers == 4 and "learning_rate=None" in repr(kept)


def test_a_faulty_row_is_named(tiny, tmp_path):
    with pytest.raises(toktune.InputError, match="rows:2"):
        make(tiny, [{"text": "hello world"}, {"txt": "hello"}], tmp_path / "out")
    with pytest.raises(ValueError, match="token"):
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), TrainableTokensConfig(token_indices=[7, 7]))


def test_preference_data(tiny, tmp_path):
    pairs = [{"prompt": "what is", "chosen": "<a> four </a>", "rejected": "three"}] * 8
    trainer = make(tiny, pairs, tmp_path / "out", loss_type="sigmoid", beta=0.2)
    trainer.train()
    assert "rewards/margins" in trainer.state.log_history[0]


def test_only_the_newest_checkpoint_is_gone_on_from(tiny, rows, tmp_path):
    with pytest.raises(toktune.InputError, match="no checkpoint"):
        make(tiny, rows, tmp_path / "out").train(resume_from_checkpoint=True)
    make(tiny, rows, tmp_path / "out", save_steps=2).train()
    for checkpoint, said in [("checkpoint-2", "not the newest"), ("checkpoint-9999", "no such folder")]:
        with pytest.raises(toktune.Error, match=said):
            make(tiny, rows, tmp_path / "out").train(resume_from_checkpoint=str(tmp_path / "out" / checkpoint))
    with pytest.raises(TypeError, match="found 5"):
        make(tiny, rows, tmp_path / "out").train(resume_from_checkpoint=5)


def test_the_best_is_in_the_state_while_it_trains(tiny, rows, tmp_path):
    seen = []

    class Best(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append((state.global_step, state.best_metric))

    make(tiny, rows, tmp_path / "out", callbacks=[Best], eval_dataset=rows[:4], eval_strategy="steps", eval_steps=2).train()
    assert seen[1][1] is None and seen[3][1] is not None


def test_numbers_are_checked_by_their_names():
    import numpy

    assert TrainingArguments("out", seed=numpy.int64(3), learning_rate=numpy.float64(0.5)).seed == 3
    for wrong in (
        {"learning_rate": "2e-5"},
        {"max_steps": "5"},
        {"bf16": "yes"},
        {"report_to": "wandb"},
        {"data_seed": 3},
        {"eval_delay": 3},
    ):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            TrainingArguments("out", **wrong)
    for wrong in ({"learning_rate": float("nan")}, {"seed": -1}, {"warmup_steps": -5}):
        with pytest.raises(toktune.InputError, match=next(iter(wrong))):
            TrainingArguments("out", **wrong)


def test_errors_have_pythons_names(tiny, rows, tmp_path):
    with pytest.raises(toktune.InputError, match="per_device_train_batch_size: expected at least 1"):
        make(tiny, rows, tmp_path / "out", per_device_train_batch_size=0).train()
    with pytest.raises(toktune.InputError, match="load_best_model_at_end: expected `eval_steps`"):
        make(tiny, rows, tmp_path / "out", load_best_model_at_end=True).train()
    with pytest.raises(toktune.InputError, match="no eval_dataset"):
        make(tiny, rows, tmp_path / "out", eval_strategy="steps")
    with pytest.raises(TypeError, match="expected rows"):
        make(tiny, 5, tmp_path / "out")

    class Own(Trainer):
        def compute_loss(self, *args, **kwargs):
            return 0

    with pytest.raises(TypeError, match="compute_loss"):
        Own(make(tiny, rows, tmp_path / "out").model, arguments(tmp_path / "out"), train_dataset=rows)


def test_predictions_and_metrics_of_ones_own(tiny, rows, tmp_path, capsys):
    numpy = pytest.importorskip("numpy")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), TrainableTokensConfig(token_indices=[5]))
    seen = []

    def computed(of):
        seen.append(of.predictions.shape)
        learnt = of.label_ids[:, 1:] >= 0
        return {"accuracy": float((of.predictions[:, :-1] == of.label_ids[:, 1:])[learnt].mean())}

    held = [{"input_ids": [5, 6, 7, 8]}, {"input_ids": [5, 6]}, {"input_ids": [9, 5, 6]}]
    args = arguments(tmp_path / "out", max_steps=2, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=2)
    trainer = Trainer(
        model, args, train_dataset=held, eval_dataset=held, compute_metrics=computed,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )  # fmt: skip
    trainer.train()
    logged = [log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log]
    assert len(logged) >= 2 and all(0 <= one <= 1 for one in logged) and set(seen) == {(3, 4)}
    plain = Trainer(model, args, train_dataset=held, eval_dataset=held)
    found = plain.predict(held)
    logits = model(held[0]["input_ids"]).logits[0]
    assert found.predictions.shape[:2] == (3, 4) and numpy.allclose(found.predictions[0], logits, atol=1e-4)
    assert found.label_ids.tolist() == [[5, 6, 7, 8], [5, 6, -100, -100], [9, 5, 6, -100]] and (found.predictions[1, 2:] == -100).all()
    assert found.metrics["test_loss"] == pytest.approx(plain.evaluate()["eval_loss"])
    plain.log_metrics("test", found.metrics)
    plain.save_metrics("test", found.metrics)
    plain.save_metrics("eval", plain.evaluate())
    assert "test_loss" in capsys.readouterr().out
    both = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert both["test_loss"] == found.metrics["test_loss"] and "eval_loss" in both


def test_ctrl_c_ends_an_evaluation_and_a_pass(tiny):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), TrainableTokensConfig(token_indices=[5]))
    row = {"input_ids": [5, 6, 7, 8] * 8}
    trainer = Trainer(model, TrainingArguments("never", per_device_eval_batch_size=1, disable_tqdm=True), train_dataset=[row])
    many = trainer._read([row] * 20000)
    uses = (
        lambda: trainer.evaluate(many),
        lambda: model.hidden_states([row["input_ids"]] * 200000),
        lambda: model([row["input_ids"]] * 20000),
    )
    for use in uses:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            use()
        timer.join()
    # it is there afterwards
    assert model([[5, 6]]).logits.shape[1] == 2
