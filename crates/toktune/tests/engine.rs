//! What a program of its own does with the library: rows from memory, its own loop, callbacks that end a run, several
//! prompts at once, and examples that begin alike.

#[macro_use]
mod common;

use common::{decoders, fixture, fixtures, rows_file};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use toktune::config::TrainableTokensConfig;
use toktune::data::{Batch, DataError, Sampler, Share};
use toktune::engine::prefixes::Prefixes;
use toktune::engine::runner::{StepOptions, Wanted};
use toktune::generate::{FinishReason, Texts};
use toktune::models::{AutoModel, DecoderStart, ModelKind};
use toktune::peft::{ADAPTER_FILE, ActiveRows, BASE_ADAPTER, PeftError, RowInit};
use toktune::train::{Evaluation, StepLog, evaluate};
use toktune::{
    AutoModelForCausalLM, AutoTokenizer, DataOptions, Dataset, Device, EngineError, Error, GenerationConfig,
    Generator, LoraConfig, PeftConfig, PeftModel, PretrainedModel, TargetModules, TrainableTokenIndices,
    Trainer, TrainerCallback, TrainingArguments, get_peft_model,
};

const TOKENS: [u32; 2] = [57, 3];

fn base() -> PretrainedModel {
    AutoModelForCausalLM::from_pretrained(fixture("llama_tied"), &Device::Cpu).expect("a model")
}

fn any(folder: &Path) -> PretrainedModel {
    AutoModel::from_pretrained(folder, &Device::Cpu).expect("a model")
}

/// LoRA that leaves inputs out, beside the tokens.
fn lora() -> LoraConfig {
    with!(LoraConfig::default(); lora_dropout: 0.2, target_modules: Some(TargetModules::Pattern("all-linear".into())), trainable_token_indices: Some(TrainableTokenIndices::Tokens(TOKENS.to_vec())))
}

fn data() -> Dataset {
    Dataset::for_model(&base(), &[rows_file("llama_tied")], None).expect("rows")
}

fn arguments(folder: &Path, steps: u64) -> TrainingArguments {
    with!(TrainingArguments::new(folder); per_device_train_batch_size: 3, max_steps: Some(steps), learning_rate: Some(0.01))
}

/// Words `w0`, `w1`, ... with a space between them, a word for each of `tokens`.
fn words(tokens: usize) -> AutoTokenizer {
    let mut vocab: Map<String, Value> = (0..tokens).map(|id| (format!("w{id}"), id.into())).collect();
    vocab.insert("<unk>".into(), tokens.into());
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
    AutoTokenizer::from_pretrained(folder.path()).expect("a tokenizer")
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

#[test]
fn rows_in_memory_are_what_the_same_rows_of_a_file_are() {
    let tokenizer = words(90);
    // more than are encoded at a time, of several forms, some of them cut
    let rows: Vec<Map<String, Value>> = (0..2500)
        .map(|i| match i % 3 {
            0 => json!({"text": format!("w{} w{} w4", i % 90, i % 7)}),
            1 => json!({"prompt": format!("w1 w{}", i % 80), "completion": " w5 w6 w7 w8 w9 w10"}),
            _ => json!({"input_ids": [i % 90, 4, 5], "labels": [-100, 4, i % 90]}),
        })
        .map(object)
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rows.jsonl");
    let lines: Vec<String> = rows.iter().map(|row| Value::Object(row.clone()).to_string()).collect();
    std::fs::write(&file, lines.join("\n")).expect("written");
    let options = with!(DataOptions::new(100); max_length: Some(6));
    let read = Dataset::read(&[file], Some(&tokenizer), &options).expect("rows of the file");
    let given = Dataset::from_rows(rows.clone(), Some(&tokenizer), &options).expect("rows in memory");
    assert_eq!((given.len(), given.rows()), (2500, 2500));
    for (read, given) in read.examples().zip(given.examples()) {
        let (read, given) = (read.expect("an example"), given.expect("an example"));
        assert_eq!(read.source.line, given.source.line);
        assert_eq!((read.input_ids, read.second), (given.input_ids, given.second));
        assert_eq!((read.labels, read.cut), (given.labels, given.cut));
    }
    assert!(given.cut_rows() > 0);
    assert_eq!(given.fingerprint(), read.fingerprint());
    assert_eq!(
        (given.tokens(), given.label_tokens(), given.cut_rows(), given.notes()),
        (read.tokens(), read.label_tokens(), read.cut_rows(), read.notes())
    );
    assert_eq!(given.uses(&[4, 9, 10]), read.uses(&[4, 9, 10]));
    // a fault names its row, in whichever chunk it is
    let mut faulty = rows;
    faulty[2000] = object(json!({"input_ids": [5, 100]}));
    let problem = Dataset::from_rows(faulty, Some(&tokenizer), &options).expect_err("an id past the model");
    assert!(problem.to_string().contains("rows:2001"), "{problem}");
    let none = Dataset::from_rows(Vec::new(), Some(&tokenizer), &options).expect_err("nothing to learn");
    assert!(matches!(none, DataError::NoLabels { rows: 0, .. }), "{none}");
}

#[test]
fn rows_for_another_kind_of_model_are_refused_everywhere() {
    let bert = || any(&fixture("bert"));
    let causal = Dataset::read(&[rows_file("bert")], None, &DataOptions::new(bert().vocabulary()));
    let causal = causal.expect("rows for a decoder");
    let adapted = || get_peft_model(bert(), TrainableTokensConfig::new([5, 7])).expect("an adapter");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let is_other_kind = |error: &Error| {
        matches!(
            error,
            Error::Data(DataError::OtherKind { made_for: ModelKind::Causal, kind: ModelKind::MaskedLm })
        )
    };
    let error = Trainer::new(adapted(), arguments(&out, 1), causal.clone()).expect_err("a trainer");
    assert!(is_other_kind(&error), "{error}");
    let own = common::dataset("bert", &bert());
    let trainer = Trainer::new(adapted(), arguments(&out, 1), own.clone()).expect("its own kind");
    let error = trainer.with_eval(causal.clone()).expect_err("rows to evaluate");
    assert!(is_other_kind(&error), "{error}");
    let model = adapted();
    let error = evaluate(model.base(), model.active(), &causal, 4, &[5]).expect_err("an evaluation");
    assert!(is_other_kind(&error), "{error}");
    let step = |data: &Dataset| {
        let batch = data.batch(&[0, 1], 0).expect("a batch");
        let trained = model.active().trained();
        model.base().step(&batch, &trained, Wanted::Gradients, StepOptions::default())
    };
    let error = step(&causal).expect_err("a step");
    assert!(matches!(error, EngineError::WrongBatch { .. }), "{error}");
    assert!(error.to_string().contains(ModelKind::MaskedLm.auto_class()), "{error}");
    step(&own).expect("a batch of its own kind");
}

#[test]
fn a_loop_of_ones_own_gives_the_same_adapter_to_the_bit() {
    let configs: [PeftConfig; 2] = [TrainableTokensConfig::new(TOKENS).into(), lora().into()];
    for config in configs {
        let top = tempfile::tempdir().expect("a folder");
        let trainer = |name: &str| {
            let model = get_peft_model(base(), config.clone()).expect("an adapter");
            let arguments =
                with!(arguments(&top.path().join(name), 7); gradient_accumulation_steps: 2, warmup_steps: 2);
            Trainer::new(model, arguments, data()).expect("a trainer")
        };
        let (mut whole, mut own) = (trainer("whole"), trainer("own"));
        let output = whole.train(&mut ()).expect("a run");
        let logs: Vec<StepLog> =
            (0..own.schedule().total_steps).map(|_| own.step().expect("a step")).collect();
        assert_eq!(own.global_step(), 7);
        assert!(!top.path().join("own").exists(), "a step writes nothing");
        let (first, last) = output.first_and_last.expect("steps");
        assert_eq!((logs[0].loss, logs[6].loss), (first.loss, last.loss));
        assert_eq!(own.model.layers(), whole.model.layers());
        assert_eq!(own.model.lora_layers(), whole.model.lora_layers());
        own.save_model().expect("saved");
        let file = |name: &str| std::fs::read(top.path().join(name).join(ADAPTER_FILE)).expect("an adapter");
        assert_eq!(file("own"), file("whole"));
        let fresh = get_peft_model(base(), config.clone()).expect("an adapter");
        assert_ne!(own.model.layers(), fresh.layers(), "it has learnt something");
    }
}

/// Breaks at one place, and notes where it was called.
#[derive(Default)]
struct Breaks {
    step: Option<u64>,
    evaluation: Option<u64>,
    seen: Vec<(&'static str, u64)>,
}

fn broken(at: Option<u64>, now: u64) -> ControlFlow<()> {
    if at == Some(now) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

impl TrainerCallback for Breaks {
    fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        self.seen.push(("step", log.step));
        broken(self.step, log.step)
    }

    fn on_evaluate(&mut self, _: &PeftModel, step: u64, _: &Evaluation) -> ControlFlow<()> {
        self.seen.push(("evaluation", step));
        broken(self.evaluation, step)
    }
}

#[test]
fn a_callback_that_breaks_ends_the_run_there() {
    let top = tempfile::tempdir().expect("a folder");
    let run = |name: &str, breaks: &mut Breaks| {
        let model = get_peft_model(base(), TrainableTokensConfig::new(TOKENS)).expect("an adapter");
        let often = with!(arguments(&top.path().join(name), 6); eval_steps: Some(2));
        let trainer = Trainer::new(model, often, data()).and_then(|trainer| trainer.with_eval(data()));
        trainer.and_then(|mut trainer| trainer.train(breaks)).expect("a run")
    };
    let mut at_step = Breaks { step: Some(2), ..Breaks::default() };
    let output = run("step", &mut at_step);
    assert_eq!((output.stopped, output.global_step, output.steps), (true, 2, 2));
    assert_eq!(at_step.seen, [("evaluation", 0), ("step", 1), ("step", 2)], "nothing is evaluated after it");
    assert!(output.after.is_none() && top.path().join("step/checkpoint-2").is_dir());

    let mut at_evaluation = Breaks { evaluation: Some(2), ..Breaks::default() };
    let output = run("evaluation", &mut at_evaluation);
    assert_eq!((output.stopped, output.global_step), (true, 2));
    assert_eq!(at_evaluation.seen, [("evaluation", 0), ("step", 1), ("step", 2), ("evaluation", 2)]);
    assert!(output.after.is_some() && top.path().join("evaluation/checkpoint-2").is_dir());

    let mut at_once = Breaks { evaluation: Some(0), ..Breaks::default() };
    let output = run("once", &mut at_once);
    assert_eq!((output.stopped, output.global_step, output.first_and_last), (true, 0, None));
    assert_eq!(at_once.seen, [("evaluation", 0)]);
    assert!(!top.path().join("once").join(ADAPTER_FILE).exists(), "there is nothing to save");

    let output = run("none", &mut Breaks::default());
    assert_eq!((output.stopped, output.global_step), (false, 6));
}

/// Prompts whose lengths differ.
const PROMPTS: [&[u32]; 4] = [&[5, 17, 44, 6, 90, 3, 3, 21, 64, 70, 4], &[57], &[3, 90, 57, 8, 8], &[5, 17]];

/// Drawn tokens: left to itself a tiny random model repeats one. Some texts end before others.
fn drawn() -> GenerationConfig {
    with!(GenerationConfig::default(); do_sample: true, temperature: 3.0, max_new_tokens: 12, seed: 11, eos_token_ids: (9..16).collect())
}

/// All tokens of some texts, with why each ended.
fn all_of(mut texts: Texts<'_>) -> Vec<(Vec<u32>, Option<FinishReason>)> {
    let mut all = vec![Vec::new(); texts.len()];
    loop {
        let next = texts.advance().expect("tokens");
        if next.is_empty() {
            break;
        }
        next.into_iter().for_each(|(text, token)| all[text].push(token));
    }
    all.into_iter().enumerate().map(|(text, tokens)| (tokens, texts.finish_reason(text))).collect()
}

/// The tokens of prompt `at` alone, drawn as in a batch.
fn alone(
    model: &PretrainedModel,
    rows: ActiveRows<'_>,
    config: &GenerationConfig,
    at: usize,
) -> (Vec<u32>, Option<FinishReason>) {
    let config = with!(config.clone(); seed: config.seed + at as u64);
    let generator = Generator::new(model, rows, config).expect("a generator");
    let mut tokens = generator.generate(PROMPTS[at]).expect("a prompt");
    let text = tokens.by_ref().collect::<toktune::Result<_>>().expect("tokens");
    (text, tokens.finish_reason())
}

#[test]
fn prompts_together_give_what_each_gives_alone() {
    let is_seq2seq = |folder: &std::path::PathBuf| any(folder).kind() == ModelKind::Seq2Seq;
    let encoder_decoders: Vec<_> = fixtures().into_iter().filter(is_seq2seq).collect();
    assert!(encoder_decoders.len() >= 9 && decoders().len() >= 30);
    let mut lengths = std::collections::BTreeSet::new();
    for folder in decoders().into_iter().chain(encoder_decoders) {
        let model = PeftModel::from_pretrained(any(&folder), &folder.join("adapter")).expect("an adapter");
        // where the configuration leaves the first token to the caller, as mBART's does
        let start = model.base().decoder_inputs().map(|inputs| inputs.start);
        let decoder_start_token_id = (start == Some(DecoderStart::LastTarget)).then_some(2);
        let drawn = with!(drawn(); decoder_start_token_id);
        let greedy = with!(drawn.clone(); do_sample: false);
        for config in [greedy, drawn] {
            let generator =
                Generator::new(model.base(), model.active(), config.clone()).expect("a generator");
            let together = all_of(generator.generate_batch(&PROMPTS).expect("prompts"));
            for (at, found) in together.iter().enumerate() {
                assert_eq!(
                    *found,
                    alone(model.base(), model.active(), &config, at),
                    "{folder:?}, prompt {at}"
                );
                lengths.insert(found.0.len());
            }
        }
    }
    assert!(lengths.len() > 3, "texts end at different times: {lengths:?}");
}

#[test]
fn a_prompt_that_cannot_be_run_refuses_the_batch() {
    let model = base();
    let generator = Generator::new(&model, ActiveRows::default(), drawn()).expect("a generator");
    let error = generator.generate_batch(&[&[1, 2], &[]]).expect_err("an empty prompt");
    assert!(matches!(error, Error::Engine(EngineError::EmptyPrompt)), "{error}");
    let error = generator.generate_batch(&[&[1, 2], &[1, 5000]]).expect_err("no such token");
    assert!(matches!(error, Error::Engine(EngineError::TokenOutOfRange { id: 5000, .. })), "{error}");
    assert!(all_of(generator.generate_batch(&[]).expect("no prompt at all")).is_empty());
}

#[test]
fn each_prompt_is_continued_by_the_adapter_it_names() {
    for with_lora in [false, true] {
        let config = |tokens: &[u32]| -> PeftConfig {
            let indices = Some(TrainableTokenIndices::Tokens(tokens.to_vec()));
            match with_lora {
                false => TrainableTokensConfig::new(tokens).into(),
                true => with!(lora(); trainable_token_indices: indices, lora_dropout: 0.0).into(),
            }
        };
        let mut model = PeftModel::without_adapter(base());
        for (name, seed) in [("one", 1), ("two", 2)] {
            model.add_adapter(name, config(&TOKENS)).expect("added");
            model.set_adapter(&[name]).expect("set");
            model.init_rows(&TOKENS, RowInit::Random { seed });
            // every value, for a fresh update is 0
            for (_, values) in model.parameters_mut() {
                values.iter_mut().enumerate().for_each(|(i, x)| *x += 0.1 * (i as f32 + seed as f32).sin());
            }
        }
        // the tokens are trained ones here, and end no text
        let config = with!(drawn(); eos_token_ids: Vec::new());
        let names = ["two", BASE_ADAPTER, "one", "two"];
        let mixed = all_of(model.generate(&PROMPTS, Some(&names), &config, None).expect("prompts"));
        let unnamed = all_of(model.generate(&PROMPTS, None, &config, None).expect("prompts"));
        assert_eq!(model.active_adapters(), ["two"], "still");
        let mut of = |name: &str| -> Vec<_> {
            if name != BASE_ADAPTER {
                model.set_adapter(&[name]).expect("set");
            }
            let rows = if name == BASE_ADAPTER { ActiveRows::default() } else { model.active() };
            (0..PROMPTS.len()).map(|at| alone(model.base(), rows, &config, at)).collect()
        };
        let (one, two, none) = (of("one"), of("two"), of(BASE_ADAPTER));
        assert_eq!(mixed, [two[0].clone(), none[1].clone(), one[2].clone(), two[3].clone()]);
        assert_eq!(unnamed, two, "without names the active one acts");
        assert!(one != two && one != none && two != none, "the adapters say different things");
        let error = model.generate(&PROMPTS, Some(&["one"]), &config, None).expect_err("too few names");
        assert!(matches!(error, Error::Peft(PeftError::MixedBatch { sequences: 4, names: 1 })), "{error}");
        let unknown = ["one", "two", "one", "three"];
        let error = model.generate(&PROMPTS, Some(&unknown), &config, None).expect_err("no such adapter");
        assert!(matches!(error, Error::Peft(PeftError::NoSuchAdapter { .. })), "{error}");
    }
}

#[test]
fn a_text_ends_with_the_string_that_stops_it() {
    let model = base();
    let tokenizer = words(model.vocabulary());
    let plain = with!(drawn(); eos_token_ids: Vec::new());
    let whole: Vec<Vec<u32>> =
        (0..PROMPTS.len()).map(|at| alone(&model, ActiveRows::default(), &plain, at).0).collect();
    let text = |ids: &[u32]| tokenizer.decode(ids, false).expect("text");
    let [.., a, b, _, _] = whole[0][..] else { panic!("{whole:?}") };
    // a word, the end of one with the whole of the next, and the beginning of one after a whole one
    let within = format!("{} w{b}", &format!("w{a}")[1..]);
    for strings in [vec![format!("w{a}")], vec![within], vec!["never".into(), format!("w{a} w")]] {
        let config = with!(plain.clone(); stop_strings: strings.clone());
        let generator = Generator::new(&model, ActiveRows::default(), config.clone()).expect("a generator");
        let error = generator.generate_batch(&PROMPTS).expect_err("there is no tokenizer");
        assert!(matches!(error, Error::NoTokenizer { option: "stop_strings" }), "{error}");
        let generator = generator.with_tokenizer(&tokenizer);
        let found = all_of(generator.generate_batch(&PROMPTS).expect("prompts"));
        let of_model = PeftModel::without_adapter(base());
        let same = of_model.generate(&PROMPTS, None, &config, Some(&tokenizer)).expect("prompts");
        assert_eq!(all_of(same), found, "{strings:?}");
        for (ids, (tokens, reason)) in whole.iter().zip(found.iter()) {
            let holds = |n: &usize| strings.iter().any(|stop| text(&ids[..*n]).contains(stop.as_str()));
            let end = (1..=ids.len()).find(holds);
            assert_eq!(*tokens, ids[..end.unwrap_or(ids.len())], "{strings:?}");
            let expected = if end.is_some() { FinishReason::StopString } else { FinishReason::MaxNewTokens };
            assert_eq!(*reason, Some(expected), "{strings:?}");
        }
        assert_eq!(found[0].1, Some(FinishReason::StopString), "{strings:?}");
        assert!(found[0].0.len() < whole[0].len(), "{strings:?}");
    }
}

/// Eight sequences of each of three beginnings, which fall into two deeper ones of four each, in a mixed order; then `more`
/// that begin like no other. With the number of the deeper beginning of each.
fn begun_alike(more: usize) -> (Prefixes, Vec<usize>) {
    let groups: Vec<usize> = (0..24).map(|i| i % 6).chain((0..more).map(|i| 6 + i)).collect();
    let token = |i: usize, at: usize| -> Option<u32> {
        let group = groups[i] as u32;
        match at {
            _ if i >= 24 && at < 20 => Some(1000 * group + at as u32),
            0..10 => Some(100 + group / 2),
            10..19 => Some(200 + group),
            19 => Some(300 + i as u32),
            _ => None,
        }
    };
    (Prefixes::of(groups.len(), token, |_| 0), groups)
}

fn epochs(sampler: &mut Sampler, count: usize) -> Vec<Vec<Batch>> {
    let batches = sampler.batches_per_epoch();
    (0..count).map(|_| (0..batches).map(|_| sampler.next_batch()).collect()).collect()
}

#[test]
fn examples_that_begin_alike_come_together_once_an_epoch() {
    for more in [0, 3] {
        let (prefixes, groups) = begun_alike(more);
        assert_eq!(prefixes.of_sequence(0).len(), 2, "a beginning and a deeper one");
        let (prefixes, examples) = (Arc::new(prefixes), groups.len());
        let plain = |seed| Sampler::new(vec![Share::once(examples)], 4, true, seed).expect("a sampler");
        let sampler = |seed| plain(seed).with_prefixes(prefixes.clone());
        let drawn = epochs(&mut sampler(5), 3);
        // in how many batches each beginning is, all together
        let spread = |epoch: &[Batch]| -> usize {
            let of = |batch: &Batch| {
                batch.indices.iter().map(|&i| groups[i]).collect::<std::collections::BTreeSet<_>>()
            };
            epoch.iter().map(|batch| of(batch).len()).sum()
        };
        for (number, epoch) in drawn.iter().enumerate() {
            assert!(epoch.iter().all(|batch| batch.epoch == number as u64));
            let mut all: Vec<usize> = epoch.iter().flat_map(|batch| batch.indices.clone()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..examples).collect::<Vec<_>>(), "each example once");
            let (last, full) = epoch.split_last().expect("batches");
            assert!(full.iter().all(|batch| batch.indices.len() == 4), "a short batch is the last");
            assert_eq!(last.indices.len(), if more == 0 { 4 } else { 3 });
            // six beginnings fill six batches; others between them move the cuts
            if more == 0 {
                assert_eq!(spread(epoch), 6, "{epoch:?}");
            }
        }
        let without = epochs(&mut plain(5), 3);
        assert!(drawn.iter().zip(&without).all(|(with, without)| spread(with) < spread(without)));
        assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2], "every epoch has an order of its own");
        assert_eq!(epochs(&mut sampler(5), 3), drawn, "the seed fixes the order");
        assert_ne!(epochs(&mut sampler(6), 3), drawn, "and another changes it");
        // a saved position goes on exactly
        let mut straight = sampler(5);
        (0..9).for_each(|_| drop(straight.next_batch()));
        let mut resumed = sampler(5);
        resumed.seek(straight.position()).expect("a position");
        assert_eq!(epochs(&mut resumed, 2), epochs(&mut straight, 2));
        // without drawing the order is the file's
        let mut in_order = Sampler::new(vec![Share::once(examples)], 4, false, 5).expect("a sampler");
        in_order = in_order.with_prefixes(prefixes.clone());
        let order: Vec<usize> =
            epochs(&mut in_order, 1).concat().into_iter().flat_map(|b| b.indices).collect();
        assert_eq!(order, (0..examples).collect::<Vec<_>>());
    }
}
