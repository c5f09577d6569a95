"""The commands for programs."""

import json

import pytest

import toktune
from toktune import AutoModelForCausalLM, AutoTokenizer, Recipe, Trainer, TrainingArguments


@pytest.fixture
def data(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_preview_says_what_is_learnt(tiny, data):
    events = toktune.preview(tiny, data, rows=2, add_token=["<a>", "</a>"])
    assert [event["event"] for event in events] == ["row", "row", "data"]
    learnt = [token for part in events[0]["parts"] for token in part["tokens"] if token["learnt"]]
    assert any(token["trained"] for token in learnt) and events[-1]["rows"] == 16


def test_commands_give_their_events_and_their_faults(tiny, data):
    seen = []
    events = toktune.run_command("eval", "--model", tiny, "--data", data, "--batch-size", 4, on_event=seen.append)
    assert events == seen and events[-1]["event"] == "eval"
    with pytest.raises(toktune.Error, match="nowhere"):
        toktune.run_command("eval", "--model", "nowhere", "--data", data)
    assert toktune.run_command("--version") == []


def test_adapters_are_combined(tiny, rows, tmp_path):
    for name, token in (("one", "<a>"), ("two", "</a>")):
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        model = Recipe(add_tokens=[token]).apply(AutoModelForCausalLM.from_pretrained(tiny), tokenizer)
        args = TrainingArguments(str(tmp_path / name), max_steps=1, report=False, disable_tqdm=True)
        Trainer(model, args, train_dataset=rows, processing_class=tokenizer).train()
    found = toktune.combine([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert found["tokens"] == [100, 101] and len(found["renumbered"]) == 1
    both = toktune.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "both")
    assert len(both.token_indices) == 2
    with pytest.raises(toktune.InputError, match="error, first or mean"):
        toktune.combine([tmp_path / "one"], tmp_path / "x", on_conflict="last")


def test_words_are_distilled(tiny, tmp_path):
    texts = tmp_path / "texts.jsonl"
    around = ["the cat sat", "what is the answer", "two three four", "how many", "the dog ran to", "medical treatment of"] * 4
    lines = [f"{text} word{at} hello world {text} and word{at + 1} is a question" for at, text in enumerate(around)]
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    flags = {"max_steps": 2, "min_snippets": 1, "tokens_after": 8}
    found = toktune.distill(tiny, ["hello world"], tmp_path / "out", corpus=texts, **flags)
    assert found["steps"] == 2 and found["words"][0]["train"] > 0 and "kl" in found["after"]
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    with pytest.raises(toktune.Error, match="nothing.txt"):
        toktune.distill(tiny, tmp_path / "nothing.txt", tmp_path / "other", corpus=texts)
