"""Models, adapters, numbers, text."""

import copy
import shutil

import numpy
import pytest
import toktune
from toktune import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LoraConfig,
    PeftModel,
    TrainableTokensConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)

IDS = [[5, 6, 7, 8], [9, 10]]


@pytest.fixture
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny)


@pytest.fixture
def adapted(model):
    return get_peft_model(model, TrainableTokensConfig(token_indices=[5, 9], init_weights=False))


def test_logits_are_those_of_each_row_alone(model):
    both = model(IDS)
    assert both.logits.shape == (2, 4, model.vocab_size) and both["logits"] is both.logits
    alone = model([IDS[1]]).logits[0]
    assert numpy.array_equal(both.logits[1, :2], alone)
    padded = model(numpy.array([[9, 10, 0, 0]]), attention_mask=numpy.array([[1, 1, 0, 0]]))
    assert padded.logits.shape[1] == 4 and numpy.array_equal(padded.logits[0, :2], alone)
    left = model([[0, 0, 9, 10]], attention_mask=[[0, 0, 1, 1]])
    assert numpy.array_equal(left.logits[0, 2:], alone)


def test_the_loss_is_the_mean_over_labels(model):
    output = model(IDS, labels=[[-100, -100, 7, 8], [-100, 10]])
    terms = []
    for row, ids, places in ((0, IDS[0], (1, 2)), (1, IDS[1], (0,))):
        for at in places:
            logits = output.logits[row, at].astype(numpy.float64)
            terms.append(numpy.log(numpy.exp(logits).sum()) - logits[ids[at + 1]])
    assert output.loss == pytest.approx(numpy.mean(terms))
    with pytest.raises(toktune.InputError, match="-100"):
        model(IDS, labels=[[-100] * 4, [-100] * 2])


def test_hidden_rows_meet_the_head(model):
    (rows,) = model.hidden_states([IDS[0]])
    head = model.get_output_embeddings().weight
    assert rows.shape == (4, 16) and numpy.allclose(rows @ head.T, model([IDS[0]]).logits[0], atol=1e-4)


def test_embeddings_are_seen_and_grow(model):
    before = model.get_input_embeddings()
    weight = before.weight
    assert (before.num_embeddings, before.embedding_dim) == weight.shape == (104, 16)
    after = model.resize_token_embeddings(110)
    assert after.num_embeddings == 110 == model.vocab_size == model.config.vocab_size
    assert numpy.array_equal(after.weight[:104], weight)
    assert model.resize_token_embeddings(10).num_embeddings == 110
    assert model.resize_token_embeddings(111, pad_to_multiple_of=8).num_embeddings == 112


def test_an_adapter_leaves_its_base_alone(model, adapted):
    other = get_peft_model(model, TrainableTokensConfig(token_indices=[5]))
    plain = model(IDS).logits
    assert not numpy.array_equal(adapted(IDS).logits, plain)
    assert numpy.array_equal(other(IDS).logits, plain)
    with adapted.disable_adapter():
        assert numpy.array_equal(adapted(IDS).logits, plain)
    mixed = adapted(IDS, adapter_names=["default", "__base__"]).logits
    assert numpy.array_equal(mixed[1], plain[1]) and not numpy.array_equal(mixed[0], plain[0])


def test_parameters_have_pefts_names(adapted, model, capsys):
    adapted.print_trainable_parameters()
    trained = 2 * 16
    assert capsys.readouterr().out.startswith(f"trainable params: {trained} || all params: {model.num_parameters() + trained:,} || ")
    named = {name: parameter.shape for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert named == {"base_model.model.model.decoder.embed_tokens.trainable_tokens_delta.default": (2, 16)}
    assert adapted.get_nb_trainable_parameters()[0] == trained == adapted.num_parameters(only_trainable=True)
    beside = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3]))
    named = {name: parameter.shape for name, parameter in beside.named_parameters() if parameter.requires_grad}
    layer = "base_model.model.model.decoder.layers.0.self_attn.q_proj"
    assert named == {
        "base_model.model.model.decoder.embed_tokens.token_adapter.trainable_tokens_delta.default": (1, 16),
        f"{layer}.lora_A.default.weight": (4, 16),
        f"{layer}.lora_B.default.weight": (16, 4),
    }


def test_state_dicts_go_both_ways(adapted, tmp_path):
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert all(tensor.dtype == numpy.float32 for tensor in tensors.values())
    doubled = {key: 2 * tensor for key, tensor in tensors.items()}
    assert set_peft_model_state_dict(adapted, doubled).missing_keys == []
    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert all(numpy.array_equal(found[key], doubled[key]) for key in doubled)
    key = next(iter(tensors))
    result = set_peft_model_state_dict(adapted, {"base_model.model.nothing": numpy.zeros((1, 1))})
    assert key in result.missing_keys and result.unexpected_keys == ["base_model.model.nothing"]
    with pytest.raises(toktune.InputError, match="shape"):
        set_peft_model_state_dict(adapted, {key: numpy.zeros((1, 16))})
    with pytest.raises(toktune.InputError, match="row 0"):
        set_peft_model_state_dict(adapted, {key: numpy.full((2, 16), numpy.nan)})


def test_bf16_numbers_are_taken(adapted):
    types = pytest.importorskip("ml_dtypes")
    tensors = {key: value.astype(types.bfloat16) for key, value in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()}
    set_peft_model_state_dict(adapted, tensors)
    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert all(numpy.array_equal(found[key], value.astype(numpy.float32)) for key, value in tensors.items())


def test_bf16_numbers_are_given(adapted, model):
    types = pytest.importorskip("ml_dtypes")
    whole = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    rounded = get_peft_model_state_dict(adapted, save_embedding_layers=False, dtype="bfloat16")
    assert all(tensor.dtype == types.bfloat16 for tensor in rounded.values())
    assert all(numpy.array_equal(rounded[key], value.astype(types.bfloat16)) for key, value in whole.items())
    assert set_peft_model_state_dict(adapted, rounded).missing_keys == []


def test_the_tensors_of_a_model(model, adapted):
    found = model.state_dict()
    named = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: tensor.shape for name, tensor in found.items()} == named and model.dtype == "float32"
    layer = model.get_input_embeddings()
    assert numpy.array_equal(found[f"{layer.name}.weight"], layer.weight)
    # without a copy, which keeps the memory as long as it is used
    shared = numpy.from_dlpack(model._inner.tensor(f"{layer.name}.weight"))
    assert numpy.array_equal(shared, layer.weight)
    larger = model.copy()
    larger.resize_token_embeddings(layer.num_embeddings + 3)
    assert larger.state_dict()[f"{layer.name}.weight"].shape[0] == layer.num_embeddings + 3
    with pytest.raises(toktune.InputError, match="return_tensors"):
        model.state_dict(return_tensors="tf")
    with pytest.raises(toktune.InputError, match="dtype"):
        get_peft_model_state_dict(adapted, dtype="float64")


def test_copies_share_weights_and_nothing_else(adapted, model):
    again = copy.deepcopy(adapted)
    doubled = {key: 2 * tensor for key, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()}
    set_peft_model_state_dict(again, doubled)
    before = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert all(not numpy.array_equal(before[key], doubled[key]) for key in doubled)
    ids = [adapted.token_indices]
    assert not numpy.array_equal(adapted(ids).logits, again(ids).logits)
    assert numpy.array_equal(copy.copy(model)(ids).logits, model(ids).logits)


def test_generations_settings_are_the_folders(model, tiny, tmp_path):
    assert model.generation_config.to_dict().get("max_new_tokens") is None
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.5, "top_k": 7, "transformers_version": "5.0"}')
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config
    assert (found.temperature, found.top_k, found.do_sample) == (0.5, 7, None)
    (tmp_path / "model" / "generation_config.json").write_text("[]")
    with pytest.raises(toktune.InputError, match="JSON object"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config


def test_several_adapters(adapted, tmp_path):
    adapted.add_adapter("other", TrainableTokensConfig(token_indices=[11]))
    assert adapted.adapter_names == ["default", "other"] and adapted.active_adapter == "default"
    adapted.set_adapter("other")
    assert adapted.token_indices == [11]
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    assert (tmp_path / "adapter_config.json").is_file() and (tmp_path / "other" / "adapter_config.json").is_file()
    again = PeftModel.from_pretrained(adapted.base_model, tmp_path)
    assert again.load_adapter(tmp_path / "other", "second").missing_keys == []
    assert again.peft_config["second"].token_indices == [11]
    again.delete_adapter("second")
    with pytest.raises(toktune.InputError, match="second"):
        again.set_adapter("second")


def test_merging(adapted, model, tmp_path):
    wanted = adapted(IDS).logits
    merged = adapted.merge_and_unload()
    assert numpy.allclose(merged(IDS).logits, wanted, atol=1e-6)
    assert not numpy.array_equal(model(IDS).logits, wanted)
    adapted.merge_adapter()
    assert numpy.allclose(adapted(IDS).logits, wanted, atol=1e-6)
    adapted.unmerge_adapter()
    assert numpy.array_equal(adapted(IDS).logits, wanted)
    assert adapted.merge_to_folder(tmp_path / "merged")["rows"] == 2
    assert numpy.allclose(AutoModel.from_pretrained(tmp_path / "merged")(IDS).logits, wanted, atol=1e-6)
    assert adapted.export(tmp_path / "served", to="lora-onehot")["tokens"] == 2
    with pytest.raises(toktune.InputError, match="gguf-lora"):
        adapted.export(tmp_path / "x", to="onnx")


def test_generation(model, tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    found = model.generate(IDS, max_new_tokens=3)
    assert found.shape == (2, 7) and found.dtype == numpy.int64
    assert found[0, :4].tolist() == IDS[0]
    alone = model.generate(numpy.array([IDS[1]]), max_new_tokens=3)
    assert found[1, : alone.shape[1]].tolist() == alone[0].tolist()
    assert model.generate([IDS[0]], GenerationConfig(max_new_tokens=2), max_new_tokens=1).shape == (1, 5)
    assert model.generate([IDS[0]], max_length=6).shape == (1, 6)
    drawn = [model.generate([IDS[0]], do_sample=True, temperature=5.0, seed=seed, max_new_tokens=8).tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    word = tokenizer.convert_ids_to_tokens(int(found[0, 4]))
    assert model.generate([IDS[0]], max_new_tokens=3, stop_strings=word, tokenizer=tokenizer).shape == (1, 5)
    with pytest.raises(TypeError, match="num_beams"):
        model.generate(IDS, num_beams=4)
    with pytest.raises(TypeError, match="frobnicate"):
        model.generate(IDS, frobnicate=1)

    class Streamer:
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens.append(value.tolist())

        def end(self):
            self.ended = True

    streamer = Streamer()
    model.generate([IDS[0]], max_new_tokens=3, streamer=streamer)
    # the prompt first, as transformers' streamers expect it
    assert streamer.tokens == [[IDS[0]], *([token] for token in found[0, 4:].tolist())] and streamer.ended


def test_other_kinds_of_models(fixtures):
    assert AutoModelForMaskedLM.from_pretrained(fixtures / "bert")([[5, 6, 7]]).logits.shape == (1, 3, 105)
    seq2seq = AutoModelForSeq2SeqLM.from_pretrained(fixtures / "t5")
    output = seq2seq([[5, 6, 7]], labels=[[8, 9]])
    assert output.logits.shape == (1, 2, seq2seq.vocab_size) and output.loss > 0
    with pytest.raises(toktune.InputError, match="labels"):
        seq2seq([[5, 6]])
    with pytest.raises(toktune.InputError, match="expected a causal language model"):
        AutoModelForCausalLM.from_pretrained(fixtures / "t5")


def test_what_makes_no_sense_here_is_said(tiny):
    with pytest.raises(TypeError, match="CPU"):
        AutoModelForCausalLM.from_pretrained(tiny, device_map="cuda")
    with pytest.raises(TypeError, match="GGUF"):
        AutoModelForCausalLM.from_pretrained(tiny, load_in_4bit=True)
    with pytest.raises(TypeError, match="frobnicate"):
        AutoModelForCausalLM.from_pretrained(tiny, frobnicate=True)
    model = AutoModelForCausalLM.from_pretrained(tiny, torch_dtype="auto", device_map="cpu", low_cpu_mem_usage=True)
    assert model.to("cpu") is model.eval()
    with pytest.raises(TypeError, match="cuda"):
        model.to("cuda")
    with pytest.raises(toktune.InputError, match="past|rows|vocabulary"):
        model([[100000]])
    with pytest.raises(TypeError, match="get_peft_model"):
        toktune.Trainer(model)


def test_shapes_and_ids_are_checked(model):
    for wrong, said in [
        (lambda: model([]), "at least one"),
        (lambda: model([[-1]]), "found -1"),
        (lambda: model([[2**40]]), "found"),
        (lambda: model([[5, 6]], labels=[[5]]), "lengths"),
        (lambda: model([[5, 6], [7, 8]], labels=[[5, 6]]), "one row for each"),
        (lambda: model([[5, 6]], labels=[[5, 5000]]), "below"),
        (lambda: model.resize_token_embeddings(-1), "rows"),
        (lambda: toktune.set_seed(-1), "seed"),
    ]:
        with pytest.raises(toktune.InputError, match=said):
            wrong()
    with pytest.raises(TypeError, match="position_ids"):
        model([[5]], position_ids=[[3]])
    with pytest.raises(TypeError, match="config.pad_token_id"):
        model.config.pad_token_id = 3


def test_a_streamer_may_look_at_the_model(model):
    class Looks:
        def put(self, value):
            self.seen = (model.vocab_size, model([[5]]).logits.shape)

        def end(self):
            pass

    streamer = Looks()
    model.generate([IDS[0]], max_new_tokens=2, streamer=streamer)
    assert streamer.seen == (104, (1, 1, 104))


def test_a_fork_is_refused_and_does_not_hang(model):
    import os

    model([[5]])
    child = os.fork()
    if child == 0:
        try:
            model([[5]])
        except toktune.InputError as error:
            os._exit(7 if "spawn" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_without_its_adapter_a_model_is_its_base(adapted, model):
    with adapted.disable_adapter():
        assert numpy.array_equal(adapted.hidden_states(IDS)[0], model.hidden_states(IDS)[0])
    adapted.merge_adapter()
    with adapted.disable_adapter():
        assert numpy.array_equal(adapted(IDS).logits, model(IDS).logits)


def test_adapters_of_an_encoder_decoder_for_each_sequence(fixtures):
    base = AutoModelForSeq2SeqLM.from_pretrained(fixtures / "t5", precision="f32")
    both = get_peft_model(base, TrainableTokensConfig(token_indices=[5], init_weights=False))
    both.add_adapter("other", TrainableTokensConfig(token_indices=[5]))
    ids, labels = [[5, 6, 7], [5, 6, 7]], [[5, 6, 1], [5, 6, 1]]
    mixed = both(ids, labels=labels, adapter_names=["default", "other"]).logits
    assert numpy.allclose(mixed[0], both(ids, labels=labels).logits[0], atol=1e-5)
    assert numpy.allclose(mixed[1], base(ids, labels=labels).logits[0], atol=1e-5)
    with pytest.raises(toktune.InputError, match="bogus"):
        both(ids, labels=labels, adapter_names=["bogus", "other"])


def test_what_is_drawn_follows_from_the_seed(model):
    drawn = []
    for _ in range(2):
        toktune.set_seed(3)
        drawn.append([model.generate([IDS[0]], do_sample=True, temperature=9.0, max_new_tokens=8).tolist() for _ in range(2)])
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]
    toktune.set_seed(0)


def test_a_recipe_run_again_trains_the_same(fixtures, tiny):
    base = AutoModelForCausalLM.from_pretrained(fixtures / "llama_untied")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    found = []
    for _ in range(2):
        made = toktune.Recipe(add_tokens="<q>").apply(base, tokenizer)
        found.append([name for name, parameter in made.named_parameters() if parameter.requires_grad])
    assert found[0] == found[1] and len(found[0]) == 2
    with pytest.raises(toktune.InputError, match="nope"):
        toktune.Recipe(add_tokens=["<r>"], tokens=["nope"]).apply(base, tokenizer)
    assert tokenizer.convert_tokens_to_ids("<r>") == tokenizer.unk_token_id
    with pytest.raises(toktune.InputError, match="adapters already"):
        toktune.Recipe(add_tokens=["<r>"]).apply(made, tokenizer)


def test_an_adapter_that_is_not_trained_is_refused_at_once(model):
    for more in ({"modules_to_save": ["fc1"]}, {"bias": "all"}):
        with pytest.raises(TypeError, match="modules_to_save, bias"):
            get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **more))
