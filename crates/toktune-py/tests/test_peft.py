"""Beside the real torch, transformers and PEFT: model objects of theirs, and what goes back to them."""

import json
import random
from copy import deepcopy

import numpy
import pytest
from conftest import FIXTURES, expected, ids_rows, write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import toktune

CLASSES = {
    "llama_tied": transformers.AutoModelForCausalLM,
    "gemma3": transformers.AutoModelForCausalLM,
    "opt_125m": transformers.AutoModelForCausalLM,
    "bert": transformers.AutoModelForMaskedLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
}


def live(fixture):
    return CLASSES[fixture].from_pretrained(FIXTURES / fixture, dtype=torch.float32)


def changed(model):
    """A model that no file has: more rows, and other weights."""
    torch.manual_seed(1)
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
        if hasattr(model, "cls"):
            # PEFT drops the bias of a head that it wraps, toktune keeps it (docs/peft-mapping.md)
            model.cls.predictions.bias.zero_()
    return model.eval()


def batches(rows, size):
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def peft_losses(model, rows, size, rate, steps):
    """Six steps of PEFT without dropout, row by row, so that nothing is padded; the loss is the mean over the labels of the batch."""
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    losses = []
    for batch in batches(rows, size)[:steps]:
        total, count = 0.0, 0
        for row in batch:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            shifted = model.config.model_type in ("llama", "opt", "gemma3_text")
            learnt = int((labels[:, 1:] if shifted else labels).ne(-100).sum())
            if learnt:
                total, count = total + model(input_ids=ids, labels=labels).loss * learnt, count + learnt
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("fixture", CLASSES)
def test_a_model_object_learns_as_in_peft(fixture, tmp_path):
    about, rows = expected(fixture), ids_rows(fixture)
    size, rate = about["batch_size"], 0.01
    rows = (rows * 6 * size)[: 6 * size]
    base = changed(live(fixture))
    copy = deepcopy(base)
    tokens = about["token_indices"] + [base.get_input_embeddings().num_embeddings - 1]
    config = peft.TrainableTokensConfig(token_indices=tokens)
    model = toktune.get_peft_model(base, config)
    args = toktune.TrainingArguments(
        str(tmp_path / "out"), max_steps=6, learning_rate=rate, lr_scheduler_type="constant", per_device_train_batch_size=size,
        train_sampling_strategy="sequential", max_grad_norm=0, logging_steps=1, report=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = toktune.Trainer(model, args, train_dataset=rows)
    trainer.train()
    found = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    # before PEFT wraps the object, whose tensors are toktune's
    trained = {key: value.copy() for key, value in toktune.get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    reference = peft.get_peft_model(copy, config)
    wanted = peft_losses(reference, rows, size, rate, 6)
    assert found == pytest.approx(wanted, rel=1e-5)
    theirs = peft.get_peft_model_state_dict(reference, save_embedding_layers=False)
    assert trained.keys() == theirs.keys()
    for key, value in theirs.items():
        assert numpy.abs(trained[key] - value.detach().numpy()).max() < 1e-4, key
    back = trainer.to_peft()
    assert isinstance(back, peft.PeftModel)
    restored = peft.get_peft_model_state_dict(back, save_embedding_layers=False)
    assert all(numpy.array_equal(restored[key].detach().numpy(), trained[key]) for key in trained)


@pytest.mark.parametrize("fixture", ["llama_tied", "t5"])
@pytest.mark.parametrize("with_lora", [False, True])
def test_a_live_model_of_peft_is_trained_where_it_lies(fixture, with_lora, tmp_path):
    about, rows = expected(fixture), ids_rows(fixture)
    size, tokens = about["batch_size"], about["token_indices"]
    rows = (rows * 6 * size)[: 6 * size]
    config = peft.TrainableTokensConfig(token_indices=tokens)
    if with_lora:
        linear = ["q", "v"] if fixture == "t5" else ["q_proj", "down_proj"]
        config = peft.LoraConfig(r=2, target_modules=linear, trainable_token_indices=tokens)
    base = changed(live(fixture))
    torch.manual_seed(2)
    model = peft.get_peft_model(base, config)
    copy = deepcopy(model)
    args = toktune.TrainingArguments(
        str(tmp_path / "out"), max_steps=6, learning_rate=0.01, lora_learning_rate=0.01, lr_scheduler_type="constant", per_device_train_batch_size=size,
        train_sampling_strategy="sequential", max_grad_norm=0, logging_steps=1, report=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = toktune.Trainer(model, args, train_dataset=rows)
    trainer.train()
    found = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    wanted = peft_losses(copy, rows, size, 0.01, 6)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert trainer.to_peft() is model
    # the live model computes with what was trained
    given = {"input_ids": torch.tensor([rows[0]["input_ids"]]), "labels": torch.tensor([rows[0]["labels"]])}
    with torch.no_grad():
        assert model.eval()(**given).loss.item() == pytest.approx(copy.eval()(**given).loss.item(), rel=1e-4)


def test_numbers_in_bf16_are_given_to_torch(tmp_path):
    base = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / "llama_tied", dtype=torch.bfloat16)
    base.save_pretrained(tmp_path)
    model = toktune.AutoModel.from_pretrained(tmp_path)
    assert model.dtype == "bfloat16" and dict(model.named_parameters())["model.norm.weight"].dtype == "bfloat16"
    found, wanted = model.state_dict(return_tensors="pt"), base.state_dict()
    assert set(found) <= set(wanted) and all(torch.equal(found[name], wanted[name]) for name in found)
    adapted = toktune.get_peft_model(model, toktune.TrainableTokensConfig(token_indices=[5], init_weights=False))
    whole = toktune.get_peft_model_state_dict(adapted, save_embedding_layers=False, return_tensors="pt")
    rounded = toktune.get_peft_model_state_dict(adapted, save_embedding_layers=False, return_tensors="pt", dtype=torch.bfloat16)
    assert all(torch.equal(rounded[key], whole[key].bfloat16()) for key in whole)
    del model, adapted
    # the memory lives as long as the tensors
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_tensors_are_used_where_they_lie():
    base = live("llama_tied").eval()
    model = toktune.AutoModel.from_model(base)
    before = model([[5, 6, 7]]).logits.copy()
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    after = model([[5, 6, 7]]).logits
    assert not numpy.array_equal(before, after)
    with torch.no_grad():
        wanted = base(torch.tensor([[5, 6, 7]])).logits.numpy()
    assert numpy.abs(after - wanted).max() < 1e-4


def test_bf16_objects_and_types(tmp_path):
    base = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / "llama_tied", dtype=torch.bfloat16).eval()
    logits = toktune.AutoModel.from_model(base, precision="f32")([[5, 6, 7]]).logits
    # the weights alone: buffers have f32 in either type
    for parameter in base.parameters():
        parameter.data = parameter.data.float()
    with torch.no_grad():
        wanted = base(torch.tensor([[5, 6, 7]])).logits.numpy()
    assert numpy.abs(logits - wanted).max() < 1e-4
    merged = toktune.get_peft_model(live("llama_tied"), toktune.TrainableTokensConfig(token_indices=[3], init_weights=False))
    merged.merge_to_folder(tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        found = again(torch.tensor([[3, 4, 5]])).logits.numpy()
    assert numpy.abs(found - merged([[3, 4, 5]]).logits).max() < 1e-4


def test_lora_goes_back_to_peft(tmp_path):
    base = live("llama_tied").eval()
    config = toktune.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, trainable_token_indices=[3, 9])
    model = toktune.get_peft_model(base, config)
    found = model([[3, 9, 5]]).logits
    with torch.no_grad():
        wanted = model.to_peft().eval()(torch.tensor([[3, 9, 5]])).logits.numpy()
    assert numpy.abs(found - wanted).max() < 1e-4
    values = {key: torch.from_numpy(value.copy()) for key, value in toktune.get_peft_model_state_dict(model).items()}
    assert toktune.set_peft_model_state_dict(model, values).unexpected_keys == []


def test_ids_of_torch_give_torch(tiny):
    model = toktune.AutoModelForCausalLM.from_pretrained(tiny)
    ids = torch.tensor([[5, 6, 7]])
    found = model.generate(ids, max_new_tokens=2)
    assert isinstance(found, torch.Tensor) and found.shape == (1, 5)
    assert toktune.TrainableTokensConfig(token_indices=ids[0]).token_indices == [5, 6, 7]
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()
    assert torch.equal(found, reference.generate(ids, max_new_tokens=2, do_sample=False))


def test_a_tokenizer_of_transformers_works(tiny, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["<a>"])
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    base.resize_token_embeddings(max(len(tokenizer), base.get_input_embeddings().num_embeddings))
    model = toktune.get_peft_model(base, toktune.TrainableTokensConfig(token_indices=[tokenizer.convert_tokens_to_ids("<a>")]))
    args = toktune.TrainingArguments(str(tmp_path / "out"), max_steps=2, report=False, disable_tqdm=True)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rows = [{"prompt": "what is", "completion": "<a> four"}] * 8
    trainer = toktune.Trainer(model, args, collator, train_dataset=rows, processing_class=tokenizer)
    assert trainer.train_dataset[0]["labels"].count(tokenizer.convert_tokens_to_ids("<a>")) == 1
    trainer.train()


def test_what_cannot_be_taken_is_said(tiny):
    wrapped = peft.get_peft_model(live("llama_tied"), peft.TrainableTokensConfig(token_indices=[3]))
    with pytest.raises(toktune.InputError, match="unload"):
        toktune.get_peft_model(wrapped, toktune.TrainableTokensConfig(token_indices=[3]))
    whole = peft.get_peft_model(live("llama_tied"), peft.LoraConfig(r=2, target_modules=["q_proj"], bias="all"))
    with pytest.raises(TypeError, match="bias"):
        toktune.PeftModel.from_model(whole)
    merged = peft.get_peft_model(live("llama_tied"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    merged.merge_adapter()
    with pytest.raises(TypeError, match="unmerge_adapter"):
        toktune.PeftModel.from_model(merged)
    with pytest.raises(TypeError, match="get_peft_model"):
        toktune.Trainer(live("llama_tied"))
    with pytest.raises(toktune.InputError, match="came from files"):
        toktune.get_peft_model(toktune.AutoModel.from_pretrained(tiny), toktune.TrainableTokensConfig(token_indices=[3])).to_peft()


def test_an_adapter_of_peft_loads_and_one_of_ours_in_peft(tmp_path):
    reference = peft.get_peft_model(live("llama_tied"), peft.TrainableTokensConfig(token_indices=[3, 8], init_weights=False)).eval()
    reference.save_pretrained(tmp_path / "theirs")
    ours = toktune.PeftModel.from_pretrained(
        toktune.AutoModel.from_pretrained(FIXTURES / "llama_tied", precision="f32"), tmp_path / "theirs"
    )
    ids = [[random.Random(0).randrange(100) for _ in range(8)] + [3, 8]]
    with torch.no_grad():
        wanted = reference(torch.tensor(ids)).logits.numpy()
    assert numpy.abs(ours(ids).logits - wanted).max() < 1e-4
    ours.save_pretrained(tmp_path / "ours", save_embedding_layers=False)
    again = peft.PeftModel.from_pretrained(live("llama_tied"), tmp_path / "ours").eval()
    with torch.no_grad():
        assert numpy.abs(again(torch.tensor(ids)).logits.numpy() - wanted).max() < 1e-5
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["peft_type"] == "TRAINABLE_TOKENS"


def test_sentence_transformers_loads_what_is_merged(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    base = toktune.AutoModel.from_pretrained(FIXTURES / "bert_pairs", precision="f32")
    model = toktune.get_peft_model(base, toktune.TrainableTokensConfig(token_indices=[30]))
    args = toktune.TrainingArguments(str(tmp_path / "out"), max_steps=2, report=False, disable_tqdm=True)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    # with a template, sentence-transformers would make a conversation of each sentence
    write_tokenizer(folder, 100, chats=False)
    tokenizer = toktune.AutoTokenizer.from_pretrained(folder)
    pairs = [("hello world", "the cat"), ("what is", "the dog sat")]
    toktune.Trainer(model, args, train_dataset=pairs, processing_class=tokenizer).train()
    model.merge_to_folder(tmp_path / "merged", tokenizer=tokenizer)
    again = library.SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    found = again.encode(["hello world"], normalize_embeddings=True)
    assert numpy.abs(found - model.encode(["hello world"], tokenizer)).max() < 1e-3


def test_tensors_that_moved_are_refused_and_not_read():
    base = live("llama_tied")
    model = toktune.AutoModel.from_model(base)
    adapted = toktune.get_peft_model(model, toktune.TrainableTokensConfig(token_indices=[5]))
    args = toktune.TrainingArguments("never", max_steps=1, report=False, disable_tqdm=True)
    trainer = toktune.Trainer(adapted, args, train_dataset=[{"input_ids": [5, 6, 7]}])
    base.share_memory()
    for use in (
        lambda: model([[5, 6, 7]]),
        lambda: toktune.get_peft_model(model, toktune.TrainableTokensConfig(token_indices=[5])),
        trainer.train,
        lambda: adapted.merge_to_folder("never"),
    ):
        with pytest.raises(toktune.InputError, match="moved"):
            use()


def test_to_peft_twice_is_refused_and_leaves_the_first(tmp_path):
    model = toktune.get_peft_model(live("llama_tied"), toktune.TrainableTokensConfig(token_indices=[5], init_weights=False))
    first = model.to_peft()
    with pytest.raises(toktune.InputError, match="wrapped"):
        model.to_peft()
    assert first(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 101)


def test_transformers_own_callback_ends_a_run(tmp_path):
    model = toktune.get_peft_model(
        toktune.AutoModel.from_pretrained(FIXTURES / "llama_tied"), toktune.TrainableTokensConfig(token_indices=[5])
    )
    rows = [{"input_ids": [5, 6, 7]}] * 8
    args = toktune.TrainingArguments(
        str(tmp_path / "out"), max_steps=30, learning_rate=1e-9, eval_strategy="steps", eval_steps=1, save_steps=1, report=False,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", disable_tqdm=True,
    )  # fmt: skip
    stop = transformers.EarlyStoppingCallback(2, 1e9)
    assert toktune.Trainer(model, args, train_dataset=rows, eval_dataset=rows, callbacks=[stop]).train().global_step < 6


def test_forms_of_pefts_that_are_not_here_are_refused():
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], layer_replication=[(0, 1), (0, 1)])
    with pytest.raises(TypeError, match="layer_replication"):
        toktune.get_peft_model(toktune.AutoModel.from_pretrained(FIXTURES / "llama_tied"), config)
