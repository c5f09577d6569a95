"""Tokenizers under transformers' names."""

import copy
import pickle

import numpy
import pytest
import toktune
from toktune import AddedToken, AutoTokenizer


@pytest.fixture
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def test_tokens_are_added_and_counted(tokenizer):
    before = len(tokenizer)
    assert tokenizer.add_tokens(["<a>", "hello", AddedToken("<b>", special=True)]) == 2
    assert len(tokenizer) == before + 2 == tokenizer.required_rows
    assert tokenizer.convert_tokens_to_ids(["<a>", "<b>"]) == [before, before + 1]
    assert tokenizer.convert_tokens_to_ids("nothing") == tokenizer.unk_token_id
    assert tokenizer.add_tokens("<a>") == 0
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["<c>"], "pad_token": "<c>"}) == 1
    assert tokenizer.pad_token == "<c>"
    ids = tokenizer("hello <a> world <b>").input_ids
    assert before in ids and tokenizer.decode(ids, skip_special_tokens=True).split() == ["hello", "<a>", "world"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokenizer.tokenize("hello <a> world <b>")


def test_arrays_and_padding(tokenizer):
    alone = tokenizer("hello world")
    assert alone.input_ids == alone["input_ids"] and alone.attention_mask == [1, 1]
    assert tokenizer("hello world", return_tensors="np").input_ids.shape == (1, 2)
    both = tokenizer(["hello world AI", "hello"], padding=True, return_tensors="np")
    assert both.input_ids[1, 1:].tolist() == [tokenizer.pad_token_id] * 2 and both.attention_mask[1].tolist() == [1, 0, 0]
    assert tokenizer(["hello"], padding="max_length", max_length=4).attention_mask == [[1, 0, 0, 0]]
    assert tokenizer("hello world AI", truncation=True, max_length=2).attention_mask == [1, 1]
    with pytest.raises(toktune.InputError, match="padding=True"):
        tokenizer(["hello world", "hello"], return_tensors="np")
    assert tokenizer.batch_decode(both.input_ids, skip_special_tokens=True) == ["hello world AI", "hello"]


def test_without_torch_its_tensors_are_refused_with_what_there_is(tokenizer):
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(toktune.InputError, match='"np"'):
            tokenizer("hello", return_tensors="pt")
    else:
        assert tokenizer("hello", return_tensors="pt").input_ids.shape == (1, 1)


def test_conversations(tokenizer, tmp_path):
    chat = [{"role": "user", "content": "hello"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "user hello </s> assistant"
    assert tokenizer.apply_chat_template(chat, return_dict=False) == tokenizer.encode("user hello </s>")
    assert tokenizer.apply_chat_template([chat, chat], tokenize=False) == ["user hello </s> "] * 2
    assert isinstance(tokenizer.apply_chat_template(chat, return_tensors="np").input_ids, numpy.ndarray)
    assert tokenizer.apply_chat_template(chat, chat_template="{{ messages[0].content }}", tokenize=False) == "hello"
    tokenizer.chat_template = "{{ messages | length }}"
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(chat, tokenize=False) == "1"


def test_one_of_the_hub(hub):
    tokenizer = AutoTokenizer.from_pretrained("facebook/opt-125m")
    assert len(tokenizer) == 50265 and "50265" in repr(tokenizer)


def test_what_would_change_ids_and_is_not_there_is_refused(tokenizer):
    for wrong in ({"text_pair": "world"}, {"is_split_into_words": True}, {"pad_to_multiple_of": 8}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            tokenizer("hello", **wrong)
    with pytest.raises(TypeError, match="lstrip"):
        tokenizer.add_tokens(AddedToken("<l>", lstrip=True))
    with pytest.raises(TypeError, match="continue_final_message"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], continue_final_message=True)
    before = len(tokenizer)
    with pytest.raises(TypeError, match="eos_token"):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<m>"], "eos_token": "<end>"})
    assert len(tokenizer) == before
    with pytest.raises(TypeError, match="revision"):
        AutoTokenizer.from_pretrained(tokenizer.name_or_path, revision="nope")
    with pytest.raises(toktune.InputError, match="token_ids"):
        tokenizer.decode([-1])
    tokenizer.pad_token_id = tokenizer.eos_token_id
    assert tokenizer.pad_token == "</s>"
    assert tokenizer(["hello", "hello world"], padding=True, padding_side="left").attention_mask == [[0, 1], [1, 1]]


def test_what_is_set_is_saved(tokenizer, tmp_path):
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.pad_token, again.padding_side) == (tokenizer.eos_token, "left")
    assert again.special_tokens_map["pad_token"] == tokenizer.eos_token
    with pytest.raises(toktune.InputError, match="no token"):
        tokenizer.pad_token = "<nothing>"
    with pytest.raises(toktune.InputError, match="padding_side"):
        tokenizer.padding_side = "top"
    with pytest.raises(TypeError, match="pad_token"):
        tokenizer.pad_token = None


def test_the_vocabulary(tokenizer):
    before = tokenizer.vocab_size
    tokenizer.add_tokens(["<z>"])
    found = tokenizer.get_vocab()
    assert len(found) == len(tokenizer) == before + 1 and list(found.values()) == sorted(found.values())
    assert tokenizer.get_added_vocab() == {"<z>": found["<z>"]} and tokenizer.vocab_size == before
    assert tokenizer.model_max_length > 1e6 and tokenizer("hello world", truncation=True).input_ids == tokenizer("hello world").input_ids
    assert tokenizer.cls_token is None and tokenizer.sep_token_id is None


def test_rows_are_padded(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    fill = tokenizer.pad_token_id
    rows = [{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [5], "labels": [5]}]
    found = tokenizer.pad(rows, return_tensors="np")
    assert found.input_ids.tolist() == [[5, 6], [5, fill]] and found.labels.tolist() == [[-100, 6], [5, -100]]
    assert found.attention_mask.tolist() == [[1, 1], [1, 0]]
    wide = tokenizer.pad({"input_ids": [[5, 6], [5]]}, pad_to_multiple_of=4, padding_side="left")
    assert wide.input_ids == [[fill, fill, 5, 6], [fill, fill, fill, 5]]
    assert tokenizer.pad({"input_ids": [5, 6]}, padding="max_length", max_length=3).input_ids == [[5, 6, fill]]
    with pytest.raises(toktune.InputError, match="input_ids"):
        tokenizer.pad({"labels": [[1]]})


def test_it_is_pickled_and_copied(tokenizer):
    tokenizer.add_tokens(["<z>"])
    tokenizer.pad_token = tokenizer.eos_token
    for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert again("hello <z>").input_ids == tokenizer("hello <z>").input_ids
        assert again.pad_token == "</s>" and len(again) == len(tokenizer)
    assert pickle.dumps(tokenizer) == pickle.dumps(tokenizer)
