"""Programs that `mpirun` starts several times."""

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")

PROGRAM = """
import sys
from toktune import AutoModelForCausalLM, LoraConfig, Trainer, TrainerCallback, TrainingArguments, get_peft_model

model, output, fails = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(model)
model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1, trainable_token_indices=[5, 6]))
args = TrainingArguments(
    output, per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=5, eval_strategy="steps", eval_steps=2, report=False,
)


class Fails(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if fails == "True" and args.process_index == 1 and state.global_step == 2:
            raise RuntimeError("one of them fails")


rows = [{"input_ids": [5, 6, 7 + at, 8, 5]} for at in range(9)]
trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows, callbacks=[Fails])
trainer.train()
assert trainer.state.global_step == 5 or fails == "True"
trainer.save_model(output + "-again")
print("process", args.process_index, "of", args.world_size, trainer.is_world_process_zero(), flush=True)
"""


def run(tmp_path, tiny, output, count=None, fails=False):
    (tmp_path / "program.py").write_text(PROGRAM)
    begin = [] if count is None else ["mpirun", "--oversubscribe", "-n", str(count)]
    usual = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(
        [*begin, sys.executable, str(tmp_path / "program.py"), str(tiny), str(tmp_path / output), str(fails)],
        env={**os.environ, **usual}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_same_bits_or_a_clear_refusal(tiny, tmp_path):
    alone = run(tmp_path, tiny, "alone")
    assert alone.returncode == 0, alone.stderr
    assert "process 0 of 1 True" in alone.stdout
    both = run(tmp_path, tiny, "both", 2)
    if "feature `mpi`" in both.stderr:
        # built without: two programs that train and write alone are refused
        assert both.returncode != 0 and "this is one of 2 processes" in both.stderr
        return
    assert both.returncode == 0, both.stderr
    assert "process 0 of 2 True" in both.stdout and "process 1 of 2 False" in both.stdout
    for folder in ("both", "both-again"):
        found = (tmp_path / folder / "adapter_model.safetensors").read_bytes()
        assert found == (tmp_path / "alone" / "adapter_model.safetensors").read_bytes()
    failed = run(tmp_path, tiny, "failed", 2, fails=True)
    assert failed.returncode != 0 and "one of them fails" in failed.stderr
