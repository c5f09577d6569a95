"""What is installed: the import, the command line, the types."""

import importlib.resources
import pickle
import shutil
import subprocess
import sys

import pytest
import toktune


def python(code, *flags):
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_is_quick_and_brings_nothing_along():
    code = "import sys, time; t = time.perf_counter(); import toktune; print(time.perf_counter() - t, *sys.modules)"
    seconds, *modules = python(code).split()
    assert float(seconds) < 0.3
    assert not {"numpy", "torch", "transformers", "peft", "datasets", "pandas"} & set(modules)


def test_the_command_line_is_there():
    script = shutil.which("toktune", path=f"{sys.prefix}/bin") or shutil.which("toktune")
    for command in ([script], [sys.executable, "-m", "toktune"]):
        assert command[0], "the console script is on the PATH"
        told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        assert told.startswith(f"toktune {toktune.__version__}")
        assert subprocess.run([*command, "train"], capture_output=True).returncode == 2


def test_types_are_shipped():
    files = importlib.resources.files("toktune")
    assert files.joinpath("py.typed").is_file() and files.joinpath("_toktune.pyi").is_file()


def test_every_name_is_there_and_says_what_it_is():
    for name in toktune.__all__:
        found = getattr(toktune, name)
        assert name == "__version__" or (found.__doc__ or "").strip(), name


def test_errors_are_one_tree():
    for kind, usual in {
        toktune.InputError: ValueError,
        toktune.MissingFileError: FileNotFoundError,
        toktune.FileError: OSError,
        toktune.OutputError: FileExistsError,
        toktune.DivergedError: ArithmeticError,
    }.items():
        assert issubclass(kind, toktune.Error) and issubclass(kind, usual)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        toktune.AutoModelForCausalLM.from_pretrained("nowhere")
    with pytest.raises(toktune.MissingFileError, match="nothing.jsonl"):
        toktune.AutoTokenizer.from_pretrained("nothing.jsonl")


def test_configurations_are_pickled_printed_and_read(tmp_path):
    config = toktune.LoraConfig(r=4, target_modules={"q_proj"}, trainable_token_indices=range(3, 5), task_type="CAUSAL_LM")
    assert pickle.loads(pickle.dumps(config)) == config
    assert "r=4" in repr(config) and config.trainable_token_indices == [3, 4]
    config.save_pretrained(tmp_path)
    assert toktune.PeftConfig.from_pretrained(tmp_path) == config
    arguments = toktune.TrainingArguments("out", learning_rate=0.1)
    assert pickle.loads(pickle.dumps(arguments)) == arguments
    for wrong in ({"use_dora": True}, {"loftq_config": {"loftq_bits": 4}}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            toktune.LoraConfig(**wrong)
    with pytest.raises(TypeError, match="convert_tokens_to_ids"):
        toktune.TrainableTokensConfig(token_indices=["<a>"])
    with pytest.raises(toktune.InputError, match=r"token_indices\[1\] is None"):
        toktune.TrainableTokensConfig(token_indices=[1, None])
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(toktune.InputError, match="IA3"):
        toktune.PeftConfig.from_pretrained(tmp_path)
