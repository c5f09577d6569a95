"""Data from what people have."""

import json

import numpy
import pytest
import toktune
from conftest import write_tokenizer
from toktune import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainableTokensConfig,
    Trainer,
    TrainingArguments,
    get_peft_model,
    tokenise,
)


@pytest.fixture
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny)


@pytest.fixture
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


TEXTS = ["hello world", "the cat sat on the mat"]


class MapStyle:
    def __len__(self):
        return 2

    def __getitem__(self, at):
        return {"text": TEXTS[at]}


def test_the_same_rows_in_every_form(model, tokenizer, tmp_path):
    rows = [{"text": text} for text in TEXTS]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    forms = [rows, TEXTS, (row for row in rows), path, str(path), [path], {"text": TEXTS}, tuple(rows)]
    found = [list(tokenise(form, model, tokenizer)) for form in forms]
    assert len(found[0]) == 2 and all(one == found[0] for one in found)
    assert list(tokenise(MapStyle(), model, tokenizer)) == found[0]
    about = tokenise(rows, model, tokenizer).describe([tokenizer.convert_tokens_to_ids("the")])
    assert about["examples"] == 2 and (about["uses"][0]["inputs"], about["uses"][0]["labels"]) == (2, 1)


def test_pandas_and_datasets(model, tokenizer):
    wanted = list(tokenise(TEXTS, model, tokenizer))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "messages": [None, None], "id": [1, 2]})
    assert list(tokenise(frame, model, tokenizer)) == wanted
    datasets = pytest.importorskip("datasets")
    assert list(tokenise(datasets.Dataset.from_dict({"text": TEXTS}), model, tokenizer)) == wanted


def test_tokenised_rows_need_no_tokenizer(model):
    rows = [
        {"input_ids": numpy.array([5, 6, 7, 0]), "attention_mask": numpy.array([1, 1, 1, 0]), "labels": [-100, 6, 7, -100]},
        {"input_ids": [5, 6], "token_type_ids": [0, 0]},
    ]
    first, second = tokenise(rows, model)
    assert first == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]} and second["labels"] == [5, 6]
    with pytest.raises(toktune.InputError, match="rows:1"):
        tokenise([{"input_ids": [5, 100000]}], model)


def test_options_and_what_a_generator_raises(model, tokenizer):
    (cut,) = tokenise(["hello world AI special domain"], model, tokenizer, max_length=3)
    assert len(cut["input_ids"]) == 3
    (named,) = tokenise([{"body": "hello world"}], model, tokenizer, text_key="body")
    assert named["input_ids"] == tokenise(TEXTS, model, tokenizer)[0]["input_ids"]

    def broken():
        yield {"text": "hello"}
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        tokenise(broken(), model, tokenizer)
    for wrong, said in [([3], "dict"), ([{"text": object()}], "type object"), ([{"text": float("nan")}], "finite"), ([{1: "x"}], "keys")]:
        with pytest.raises(toktune.InputError, match=said):
            tokenise(wrong, model, tokenizer)
    endless = []
    endless.append(endless)
    with pytest.raises(toktune.InputError, match="levels"):
        tokenise([{"text": endless}], model, tokenizer)


def test_pairs_of_sentences(fixtures, tmp_path):
    base = AutoModel.from_pretrained(fixtures / "bert_pairs")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    write_tokenizer(folder, 100)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    class InputExample:
        def __init__(self, texts):
            self.texts = texts

    pairs = [("hello world", "the cat"), ["what is", "the dog sat"], InputExample(["two three", "four"])]
    model = get_peft_model(base, TrainableTokensConfig(token_indices=[tokenizer.convert_tokens_to_ids("cat"), 30]))
    args = TrainingArguments(str(tmp_path / "out"), max_steps=2, report=False, disable_tqdm=True)
    trainer = Trainer(model, args, train_dataset=pairs, processing_class=tokenizer)
    assert len(trainer.train_dataset) == 3
    trainer.train()
    vectors = model.encode(["hello world", "the cat"], tokenizer)
    assert vectors.shape == (2, 36) and numpy.allclose(numpy.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_what_is_not_read_need_not_be_readable(model, tokenizer):
    row = {"text": "hello world", "score": float("nan"), "at": object(), "id": 2**70}
    assert tokenise([row], model, tokenizer)[0] == tokenise(["hello world"], model, tokenizer)[0]
