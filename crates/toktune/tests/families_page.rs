//! `docs/families.md` is what the code says of the families. To write it anew:
//!
//! ```sh
//! TOKTUNE_WRITE_DOCS=1 cargo test --workspace --test families_page
//! ```

mod common;

use common::{fixture, fixtures};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toktune::models::{FAMILIES, Family, ModelConfig, ModelKind, missing_piece};

const HEAD: &str = "\
# Model families

This page is written by `crates/toktune/tests/families_page.rs` from the code. Every family is compared with PEFT itself: a
small random model of it is committed in `crates/toktune/tests/fixtures`, and six steps of training, the first gradients, the
trained rows and the outputs agree with PEFT's to 1e-5 ([tools/fixtures](../tools/fixtures/README.md) makes them).

`target_modules` are the names that PEFT and transformers have for the modules; without one the first is trained. *Tied* says
whether the head is the embedding where the configuration says nothing of it; a file with a head of its own that differs
from the embedding, in however few rows, is not tied, whatever its configuration says. *GGUF* is the architecture in files of llama.cpp.

`toktune inspect MODEL` says the same of a model at hand. A model that no family describes is refused with the nearest one and,
for well-known models, with what is missing. [adding-a-family.md](adding-a-family.md) says how to add one.

## What is not computed

| kind | loaded in transformers by | exact shortcut |
| --- | --- | --- |
";

const TAIL: &str = "\
## What weights come in

| files | read | refused by name |
| --- | --- | --- |
| safetensors, one or several with an index | F32, F16, BF16; F8_E4M3 and F8_E5M2 with scales (`quant_method: fp8`: blocks, rows or whole tensors), decoded in `f32` as transformers does and multiplied so (`--precision bf16` is faster); MXFP4 of GPT-OSS's experts | bitsandbytes, GPTQ, AWQ, HQQ, EETQ, AQLM, quanto, torchao, compressed-tensors, MLX, MXFP4 of other models and any other `quant_method`: take the model of 16 bits, or a GGUF file. LoRA is not merged into FP8 weights; tokens are |
| `pytorch_model.bin`, `adapter_model.bin` | what torch 1.6 and later write (zip) and what earlier ones did (a stream of pickles); no code of a file is run | tar archives (torch before 0.1.10) |
| GGUF, one file or all parts of one (`name-00001-of-00003.gguf`) | F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4; to the last bit as the package `gguf` decodes them | NVFP4, Q1_0, Q8_1, Q8_K and the types that GGML has dropped |

## What stands in the way of others

| model | why |
| --- | --- |
| Marian with `share_encoder_decoder_embeddings: false` | the two sides have embeddings of their own, and toktune holds one; refused |
| GPT-2 with `scale_attn_by_inverse_layer_idx` or cross-attention, BLOOM with `apply_residual_connection_post_layernorm`, OPT with norms without weights | no released model of a common size has them; refused by the name of the key |
| a length-dependent rope (`dynamic`, `longrope`) | transformers takes the length of the longest row of a batch, toktune that of each row: as if it were alone |
| a trained token that is the padding token | PEFT gives it no gradient from the embedding (`padding_idx`), toktune does |
| a tied head with a bias (BERT and its kin, Phi with a trained head) | PEFT drops the bias where it wraps the head, toktune keeps it as the model has it |
| a model that reads images too | its text part alone is computed, trained and merged; other tensors stay byte for byte. LoRA's `target_modules` are stored as full names, since the vision tower has layers whose names end alike |
| T5, BART and their kin with embeddings that differ between the sides | one matrix is held; refused by the names of the tensors |
| a sentence encoder with a `Dense` or another module than `Transformer`, `Pooling`, `Normalize` in `modules.json` | refused by its name |
| untied T5 and mT5 in transformers 5 | PEFT overwrites rows of the head because the configuration says that it is tied; toktune trains the rows that `shared` has |
| Marian in PEFT 0.21 | PEFT fails to wrap the embedding twice; toktune trains `model.shared` |
| Mixtures of experts | LoRA reaches neither the experts that rows choose nor the router, as PEFT's `all-linear` does not, but experts that every row passes through; experts in GGUF files are not read; `output_router_logits: true` is refused, for its loss is not added |
| DeBERTa with a convolution (`conv_kernel_size`), or a projected embedding beside positions or segments | refused by the name of the key; its attention holds `T x T` scores, one head at a time on each thread |
| Falcon with biases, Falcon2-11B as GGUF | the files cannot hold them, or do not hold what is needed: refused |
| Mistral as GGUF | is a `llama` there, and its window is lost |
| what else GGUF files lose | windows of Qwen 2 and StarCoder 2, the scale of Gemma 2's and 3's scores (the head's width is taken), rope bases of Gemma 1 and 2, StableLM, Falcon, GPT-NeoX and Phi (10000 is taken), `dynamic` rope |
";

/// The committed models of a family.
fn fixtures_of(family: &Family) -> Vec<PathBuf> {
    let is_of = |folder: &PathBuf| {
        ModelConfig::read(folder).is_ok_and(|config| family.model_types.contains(&config.model_type()))
    };
    fixtures().into_iter().filter(is_of).collect()
}

fn row(family: &Family) -> (ModelKind, String) {
    let models = fixtures_of(family);
    assert!(!models.is_empty(), "{} has no committed model", family.name);
    let config = ModelConfig::read(&models[0]).expect("a configuration");
    // what holds where the configuration says nothing
    let mut object = config.object().clone();
    for key in ["tie_word_embeddings", "scale_decoder_outputs"] {
        object.remove(key);
    }
    let spec = family.outline(&ModelConfig::from_object(config.path(), object)).expect("a description");
    let code = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let committed: Vec<String> =
        models.iter().map(|m| m.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    let tied = if spec.tied { "yes" } else { "no" };
    let gguf = family.gguf.map_or("-".into(), |gguf| format!("`{}`", gguf.architecture));
    let text = format!(
        "| {} | {} | {} | {} | {} | {tied} | {gguf} | {} |\n",
        family.name,
        code(family.model_types),
        family.examples.join(", "),
        code(&spec.embeddings),
        code(&[spec.head]),
        committed.join(", "),
    );
    (spec.kind, text)
}

/// The kinds of transformers' automatic classes that have a head, as its list of types calls them, and as families do.
const CLASSES: [(&str, ModelKind); 3] =
    [("causal", ModelKind::Causal), ("masked", ModelKind::MaskedLm), ("encoder-decoder", ModelKind::Seq2Seq)];

/// Which of transformers' model types are computed, in one table.
fn coverage(kinds: &BTreeMap<&str, ModelKind>) -> String {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/fixtures/model_types.txt");
    let list = std::fs::read_to_string(list).expect("the list of types");
    let (version, list) = list.split_once('\n').expect("a version and types");
    let types: Vec<(&str, Vec<&str>)> = list
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(model_type, classes)| (model_type, classes.split(',').collect()))
        .collect();
    // transformers writes names with either sign
    let kind_of = |model_type: &str| {
        kinds.get(model_type).or_else(|| kinds.get(model_type.replace('-', "_").as_str())).copied()
    };
    let class_of =
        |kind: ModelKind| CLASSES.iter().find(|(_, of)| *of == kind).map_or("", |(class, _)| class);
    let mut text = format!(
        "## Coverage\n\nThe model types that {} loads by its automatic classes \
         ([make_model_types.py](../tools/fixtures/make_model_types.py) lists them), and which of them are computed.\n\n\
         | kind | types in transformers | computed here |\n| --- | --- | --- |\n",
        version.trim_start_matches("# ")
    );
    for (class, kind) in CLASSES {
        let all = types.iter().filter(|(_, classes)| classes.contains(&class));
        let here = all.clone().filter(|(model_type, _)| kind_of(model_type) == Some(kind)).count();
        writeln!(text, "| {class} | {} | {here} |", all.count()).expect("written");
    }
    text.push_str("\n| `model_type` | in transformers | here |\n| --- | --- | --- |\n");
    for (model_type, classes) in &types {
        let here = match kind_of(model_type) {
            Some(kind) => class_of(kind).to_owned(),
            None => missing_piece(model_type).map_or("-".to_owned(), |piece| format!("needs {piece}")),
        };
        writeln!(text, "| `{model_type}` | {} | {here} |", classes.join(", ")).expect("written");
    }
    text.push('\n');
    text
}

fn page() -> String {
    let mut page = HEAD.to_string();
    let kinds = [ModelKind::Causal, ModelKind::MaskedLm, ModelKind::SentencePairs, ModelKind::Seq2Seq];
    for kind in kinds {
        writeln!(page, "| {kind} | `{}` | {} |", kind.auto_class(), kind.shortcuts()).expect("written");
    }
    page.push_str(
        "\nWith LoRA every row depends. An encoder without its head is a model of sentence pairs; `1_Pooling` and `modules.json` of \
         sentence-transformers say how its rows become a vector (`cls`, `max`, `mean`, `mean_sqrt_len_tokens`, `weightedmean`, \
         `lasttoken`, or several joined), and the mean is taken where they are not there.\n",
    );
    let rows: Vec<_> = FAMILIES.iter().map(|family| row(family)).collect();
    for (kind, title) in [
        (ModelKind::Causal, "Decoders"),
        (ModelKind::MaskedLm, "Encoders"),
        (ModelKind::Seq2Seq, "Encoder-decoders"),
    ] {
        let heading =
            "| family | `model_type` | for example | embedding | head | tied | GGUF | committed models |";
        write!(page, "\n## {title}\n\n{heading}\n{}|\n", "| --- ".repeat(8)).expect("written");
        rows.iter().filter(|row| row.0 == kind).for_each(|row| page.push_str(&row.1));
    }
    page.push('\n');
    let kinds: BTreeMap<&str, ModelKind> = FAMILIES
        .iter()
        .zip(&rows)
        .flat_map(|(family, row)| family.model_types.iter().map(|model_type| (*model_type, row.0)))
        .collect();
    page.push_str(TAIL);
    page.push('\n');
    page.push_str(coverage(&kinds).trim_end());
    page.push('\n');
    page
}

#[test]
fn the_page_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/families.md");
    let expected = page();
    if std::env::var_os("TOKTUNE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/families.md is not what the code says; see {}", file!());
}

#[test]
fn a_model_of_no_family_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["model.safetensors", "config.json"] {
        std::fs::copy(fixture("llama_tied").join(name), folder.path().join(name)).expect("copied");
    }
    for (model_type, expected) in [
        ("albert", "needs layers that share one set of weights; the nearest is 'bert'"),
        ("mamba", "needs state-space layers; supported"),
        ("mistrall", "did you mean 'mistral'?"),
        ("zzzzzzzzzz", "no family file describes it (docs/adding-a-family.md); supported"),
    ] {
        let config = std::fs::read_to_string(fixture("llama_tied").join("config.json")).expect("read");
        let config =
            config.replace("\"model_type\": \"llama\"", &format!("\"model_type\": \"{model_type}\""));
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        let error = toktune::models::AutoModel::from_pretrained(folder.path(), &toktune::Device::Cpu);
        let message = error.expect_err("unsupported").to_string();
        assert!(message.contains(&format!("'{model_type}'")) && message.contains(expected), "{message}");
    }
}
