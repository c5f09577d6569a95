//! Which of transformers' tokenizer classes a folder has, as far as it decides what is done with the folder's files.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Result;
use crate::TextError;
use crate::files::read_object;

/// A class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Albert,
    Bert,
    CodeLlama,
    Cohere,
    Deberta,
    DebertaV2,
    Gemma,
    Gpt2,
    GptNeoX,
    Llama,
    M2m100,
    MBart,
    MBart50,
    Nllb,
    Pegasus,
    Qwen2,
    Roberta,
    T5,
    XlmRoberta,
    /// `TokenizersBackend`, which takes its files as they are; also any class that is not known here.
    Backend,
}

/// Classes by their names, without `Tokenizer` and `Fast`.
const CLASSES: [(&str, Class); 27] = [
    ("Albert", Class::Albert),
    ("Bart", Class::Roberta),
    ("Bert", Class::Bert),
    ("CodeLlama", Class::CodeLlama),
    ("CodeGen", Class::Gpt2),
    ("Cohere", Class::Cohere),
    ("Deberta", Class::Deberta),
    ("DebertaV2", Class::DebertaV2),
    ("DistilBert", Class::Bert),
    ("Electra", Class::Bert),
    ("Gemma", Class::Gemma),
    ("GPT2", Class::Gpt2),
    ("GPTNeoX", Class::GptNeoX),
    ("LED", Class::Roberta),
    ("Llama", Class::Llama),
    ("Longformer", Class::Roberta),
    ("M2M100", Class::M2m100),
    ("MBart", Class::MBart),
    ("MBart50", Class::MBart50),
    ("MobileBert", Class::Bert),
    ("Nllb", Class::Nllb),
    ("Pegasus", Class::Pegasus),
    ("Qwen2", Class::Qwen2),
    ("Roberta", Class::Roberta),
    ("MT5", Class::T5),
    ("T5", Class::T5),
    ("XLMRoberta", Class::XlmRoberta),
];

/// The class of a model type, where neither file names one.
const OF_MODEL: [(&str, Class); 36] = [
    ("albert", Class::Albert),
    ("bart", Class::Roberta),
    ("bert", Class::Bert),
    ("code_llama", Class::CodeLlama),
    ("codegen", Class::Gpt2),
    ("cohere", Class::Cohere),
    ("cohere2", Class::Cohere),
    ("deberta", Class::Deberta),
    ("deberta-v2", Class::DebertaV2),
    ("distilbert", Class::Bert),
    ("electra", Class::Bert),
    ("gemma", Class::Gemma),
    ("gemma2", Class::Gemma),
    ("gemma3", Class::Gemma),
    ("gemma3_text", Class::Gemma),
    ("gpt2", Class::Gpt2),
    ("gpt_neo", Class::Gpt2),
    ("gpt_neox", Class::GptNeoX),
    ("gptj", Class::Gpt2),
    ("llama", Class::Llama),
    ("m2m_100", Class::M2m100),
    ("mbart", Class::MBart),
    ("mt5", Class::T5),
    ("nllb", Class::Nllb),
    ("olmo", Class::GptNeoX),
    ("opt", Class::Gpt2),
    ("pegasus", Class::Pegasus),
    ("phi", Class::Gpt2),
    ("qwen2", Class::Qwen2),
    ("qwen2_5_vl", Class::Qwen2),
    ("qwen2_vl", Class::Qwen2),
    ("qwen3", Class::Qwen2),
    ("qwen3_moe", Class::Qwen2),
    ("roberta", Class::Roberta),
    ("t5", Class::T5),
    ("xlm-roberta", Class::XlmRoberta),
];

/// Model types whose tokenizers transformers takes as they are, whatever class their files name.
const AS_THEY_ARE: [&str; 18] = [
    "flex_olmo",
    "granite",
    "granitemoe",
    "internlm2",
    "llava",
    "llava_next",
    "mistral",
    "mistral3",
    "mixtral",
    "modernbert",
    "nemotron",
    "olmo2",
    "olmo3",
    "phi3",
    "phimoe",
    "pixtral",
    "smolvlm",
    "stablelm",
];

/// Classes of transformers that make more of a SentencePiece model than is in it, and are not known here.
const NOT_KNOWN: [&str; 20] = [
    "Barthez",
    "Bartpho",
    "BertGeneration",
    "BigBird",
    "Camembert",
    "Cpm",
    "GPTSw3",
    "LayoutXLM",
    "Marian",
    "MLuke",
    "PLBart",
    "Reformer",
    "RemBert",
    "SeamlessM4T",
    "Siglip",
    "Speech2Text",
    "Udop",
    "XGLM",
    "XLMProphetNet",
    "XLNet",
];

impl Class {
    /// The class of a folder: what its `tokenizer_config.json` or else its `config.json` names, or the model type's.
    pub(super) fn of(dir: &Path, tokenizer_config: &Map<String, Value>) -> Result<Named> {
        let config = read_object(&dir.join("config.json"))?.unwrap_or_default();
        let text = |fields: &Map<String, Value>, key: &str| {
            fields.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let model_type = text(&config, "model_type").unwrap_or_default();
        let name = text(tokenizer_config, "tokenizer_class").or_else(|| text(&config, "tokenizer_class"));
        let of_model = OF_MODEL.iter().find(|(name, _)| *name == model_type).map(|(_, class)| *class);
        let class = match &name {
            Some(_) | None if AS_THEY_ARE.contains(&model_type.as_str()) => Class::Backend,
            // the one family whose files are known to name a wrong class
            Some(_) if model_type == "qwen2" => Class::Qwen2,
            Some(name) => Class::by_name(name).unwrap_or(Class::Backend),
            None => of_model.unwrap_or(Class::Backend),
        };
        Ok(Named { class, name: name.unwrap_or(model_type) })
    }

    fn by_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix("Fast").unwrap_or(name);
        let bare = name.strip_suffix("Tokenizer")?;
        CLASSES.iter().find(|(known, _)| *known == bare).map(|(_, class)| *class)
    }

    /// The special tokens that the class has where its files name none.
    pub(super) fn special_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Class::Albert => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "<unk>"),
                ("sep_token", "[SEP]"),
                ("pad_token", "<pad>"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Class::Deberta | Class::DebertaV2 => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Class::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Class::Cohere => &[
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("unk_token", "<UNK>"),
                ("sep_token", "<SEP>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
            Class::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Class::Gpt2 => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
            ],
            Class::GptNeoX => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|padding|>"),
            ],
            Class::Qwen2 => &[
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Class::Llama | Class::CodeLlama => {
                &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
            }
            Class::M2m100 => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
            ],
            Class::MBart50 => &[
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Class::MBart | Class::Nllb | Class::Roberta | Class::XlmRoberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Class::Pegasus => &[
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask_2>"),
            ],
            Class::T5 => &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
            Class::Backend => &[("bos_token", "<s>"), ("eos_token", "</s>")],
        }
    }

    /// The names of the tokens that the class puts before and behind a text, whatever its files say; `None` where the
    /// files decide.
    pub(super) fn frame(self) -> Option<(&'static [&'static str], &'static [&'static str])> {
        match self {
            Class::Bert | Class::Deberta | Class::DebertaV2 | Class::Roberta => {
                Some((&["cls_token"], &["sep_token"]))
            }
            Class::XlmRoberta => Some((&["bos_token"], &["eos_token"])),
            Class::T5 | Class::Pegasus => Some((&[], &["eos_token"])),
            _ => None,
        }
    }
}

/// A class, and what the folder calls it.
pub(super) struct Named {
    pub class: Class,
    pub name: String,
}

impl Named {
    /// The class that the name stands for, whatever is made of it with a `tokenizer.json`.
    pub fn by_its_name(&self) -> Class {
        Class::by_name(&self.name).unwrap_or(Class::Backend)
    }

    /// Whether transformers has rules of its own for the class, which are not known here.
    pub fn has_unknown_rules(&self) -> bool {
        let name = self.name.strip_suffix("Fast").unwrap_or(&self.name);
        name.strip_suffix("Tokenizer").is_some_and(|bare| NOT_KNOWN.contains(&bare))
    }

    /// That vocabulary files of this class are not understood.
    pub fn refused(self, dir: &Path, found: Vec<&'static str>) -> TextError {
        let class = if self.name.is_empty() { "a tokenizer of no known class".to_owned() } else { self.name };
        TextError::TokenizerClass { dir: dir.to_owned(), class, found }
    }
}
