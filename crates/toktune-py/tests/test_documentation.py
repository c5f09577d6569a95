"""The examples of docs/python.md, one after the other as they stand there. Those of the method's documentation are among them."""

import re
from pathlib import Path

import pytest
import toktune

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
BLOCK = re.compile(r"(?:<!-- (.*?) -->\n)?```python\n(.*?)```", re.DOTALL)


def blocks():
    return [(mark or "", code) for mark, code in BLOCK.findall(PAGE.read_text())]


def has_torch():
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


def test_every_example_of_the_page_runs(hub, fixtures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # what the examples take for granted
    names = {"base_model": toktune.AutoModelForCausalLM.from_pretrained("facebook/opt-125m")}
    found = blocks()
    assert len(found) > 9
    for mark, code in found:
        if mark == "needs: torch" and not has_torch():
            continue
        given = dict(names)
        if mark.startswith("base_model"):
            names["base_model"] = toktune.AutoModelForSeq2SeqLM.from_pretrained(fixtures / "t5")
        if 'return_tensors="pt"' in code and not has_torch():
            with pytest.raises(toktune.InputError, match='"np"'):
                exec(compile(code, str(PAGE), "exec"), dict(names))
            code = code.replace('"pt"', '"np"')
        if "Method 3" in code:
            # the model that the tokens are added to, before an adapter is over it
            names["model"] = names["base_model"]
        if "Train only the specified tokens" in code:
            names["train_dataset"] = [{"input_ids": [2, 50000, 9, 50001], "labels": [-100, 50000, 9, 50001]}] * 8
        exec(compile(code, str(PAGE), "exec"), names)
        if mark.startswith("base_model"):
            names["base_model"] = given["base_model"]
    said = capsys.readouterr().out
    assert "trainable params: 48 || all params: " in said
    assert "Trainable: base_model.model.model.decoder.embed_tokens.trainable_tokens_delta.default, Shape: (3, 16)" in said
    assert (tmp_path / "adapter" / "report.html").is_file() and (tmp_path / "trainable_tokens_model" / "adapter_config.json").is_file()
