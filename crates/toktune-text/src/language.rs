//! Languages of translation models: the frames that NLLB, mBART, mBART-50 and M2M100 put around a source and a target.

use crate::class::Class;
use crate::{AutoTokenizer, Result, TextError};
use toktune_weights::nearest;

/// mBART's languages, in the order of their ids.
pub(super) const MBART: [&str; 25] = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT",
    "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK",
    "tr_TR", "vi_VN", "zh_CN",
];
/// mBART-50's.
pub(super) const MBART50: [&str; 52] = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT",
    "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK",
    "tr_TR", "vi_VN", "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE",
    "km_KH", "mk_MK", "ml_IN", "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN",
    "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
];
/// M2M100's, which are written `__en__` as tokens.
pub(super) const M2M100: [&str; 100] = [
    "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs", "cy", "da", "de",
    "el", "en", "es", "et", "fa", "ff", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr",
    "ht", "hu", "hy", "id", "ig", "ilo", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "lb", "lg",
    "ln", "lo", "lt", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "ns", "oc", "or",
    "pa", "pl", "ps", "pt", "ro", "ru", "sd", "si", "sk", "sl", "so", "sq", "sr", "ss", "su", "sv", "sw",
    "ta", "th", "tl", "tn", "tr", "uk", "ur", "uz", "vi", "wo", "xh", "yi", "yo", "zh", "zu",
];
/// Those of the models for WMT 2021.
pub(super) const WMT21: [&str; 8] = ["en", "ha", "is", "ja", "cs", "ru", "zh", "de"];
/// How many languages a message lists.
const LISTED: usize = 12;

impl Class {
    /// The source language that a class takes when none is said.
    fn usual_source(self) -> Option<&'static str> {
        match self {
            Class::MBart | Class::MBart50 => Some("en_XX"),
            Class::Nllb => Some("eng_Latn"),
            Class::M2m100 => Some("en"),
            _ => None,
        }
    }
}

impl AutoTokenizer {
    /// Says which languages source and target texts have; `None` leaves what the folder says, or the class's usual source.
    ///
    /// The frames are those of transformers' `src_lang` and `tgt_lang`: texts that are encoded with special tokens get the
    /// source's, targets ([`encode_target`](Self::encode_target)) the target's. A target without a language has the
    /// source's.
    ///
    /// # Errors
    /// A tokenizer without languages, or a language that it has no token for.
    pub fn set_languages(&mut self, source: Option<&str>, target: Option<&str>) -> Result<()> {
        let Some(usual) = self.class.usual_source() else {
            let class = self.config.get("tokenizer_class").and_then(serde_json::Value::as_str);
            return Err(TextError::NoLanguages { class: class.unwrap_or("of no such class").to_owned() });
        };
        let stated = |key: &str| self.config.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
        let source =
            source.map(str::to_owned).or_else(|| stated("src_lang")).unwrap_or_else(|| usual.to_owned());
        let target = target.map(str::to_owned).or_else(|| stated("tgt_lang"));
        let source_token = self.language_token(&source)?;
        let target_token = target.as_deref().map(|target| self.language_token(target)).transpose()?;
        let frame = |token: &str| -> (Vec<String>, Vec<String>) {
            let eos = self.eos_token().unwrap_or("</s>").to_owned();
            let legacy = self.config.get("legacy_behaviour") == Some(&true.into());
            match self.class {
                Class::MBart => (vec![], vec![eos, token.to_owned()]),
                Class::Nllb if legacy => (vec![], vec![eos, token.to_owned()]),
                _ => (vec![token.to_owned()], vec![eos]),
            }
        };
        let ids =
            |tokens: &[String]| -> Vec<u32> { tokens.iter().filter_map(|t| self.token_to_id(t)).collect() };
        let (before, behind) = frame(target_token.as_deref().unwrap_or(&source_token));
        let target_frame = (ids(&before), ids(&behind));
        let (before, behind) = frame(&source_token);
        self.target_frame = Some(target_frame);
        self.target_language = target_token.and_then(|token| self.token_to_id(&token));
        self.frame(
            &before.iter().map(String::as_str).collect::<Vec<_>>(),
            &behind.iter().map(String::as_str).collect::<Vec<_>>(),
        )?;
        self.config.insert("src_lang".to_owned(), source.into());
        if let Some(target) = target {
            self.config.insert("tgt_lang".to_owned(), target.into());
        }
        Ok(())
    }

    /// Sets the frame of a folder whose class has languages; a folder whose vocabulary lacks them keeps its own.
    pub(super) fn set_usual_languages(&mut self) -> Result<()> {
        let Some(usual) = self.class.usual_source() else { return Ok(()) };
        let source = self.config.get("src_lang").and_then(serde_json::Value::as_str).unwrap_or(usual);
        match self.language_token(source) {
            Ok(_) => {
                let config = self.config.clone();
                self.set_languages(None, None)?;
                self.config = config;
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// The ids of a target text for an encoder-decoder, in the frame of its language where the tokenizer has languages;
    /// `None` where it has none.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn encode_target(&self, text: &str) -> Result<Option<Vec<u32>>> {
        let Some((before, behind)) = &self.target_frame else { return Ok(None) };
        let mut ids = before.clone();
        ids.extend(self.encode(text, false)?);
        ids.extend(behind);
        Ok(Some(ids))
    }

    /// The first token to generate once a target language is set: transformers' `forced_bos_token_id`. mBART has none, and
    /// begins with the language instead.
    pub fn forced_bos_token_id(&self) -> Option<u32> {
        self.target_language.filter(|_| self.class != Class::MBart)
    }

    /// What the target of a translation model is begun by once a target language is set, where the model does not say so
    /// itself: of mBART the language, of mBART-50 the end of a text.
    pub fn decoder_start_token_id(&self) -> Option<u32> {
        match self.class {
            Class::MBart => self.target_language,
            Class::MBart50 => self.target_language.and(self.eos_token_id()),
            _ => None,
        }
    }

    /// The token of a language.
    fn language_token(&self, language: &str) -> Result<String, TextError> {
        let token = match self.class {
            Class::M2m100 if !language.starts_with("__") => format!("__{language}__"),
            _ => language.to_owned(),
        };
        let languages = self.languages();
        if self.token_to_id(&token).is_some()
            && (languages.contains(&token) || self.looks_like_language(&token))
        {
            return Ok(token);
        }
        let bare = |token: &str| token.trim_matches('_').to_owned();
        let names: Vec<String> = languages
            .iter()
            .map(|token| if self.class == Class::M2m100 { bare(token) } else { token.clone() })
            .collect();
        let shown: Vec<&str> = names.iter().take(LISTED).map(String::as_str).collect();
        let more = if names.len() > LISTED { ", …" } else { "" };
        Err(TextError::Language {
            found: language.to_owned(),
            nearest: nearest(language, names.iter().map(String::as_str)).map(str::to_owned),
            known: format!("{}{more}", shown.join(", ")),
        })
    }

    /// Whether a token is written as languages are: `fra_Latn`, `fr_XX`, `__fr__`.
    fn looks_like_language(&self, token: &str) -> bool {
        let lower =
            |text: &str| (2..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase());
        match self.class {
            Class::M2m100 => {
                token.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")).is_some_and(lower)
            }
            Class::Nllb => token.split_once('_').is_some_and(|(code, script)| {
                lower(code) && script.len() == 4 && script.starts_with(|c: char| c.is_ascii_uppercase())
            }),
            _ => token.split_once('_').is_some_and(|(code, land)| {
                lower(code) && land.len() == 2 && land.bytes().all(|byte| byte.is_ascii_uppercase())
            }),
        }
    }

    /// The tokens of all languages, sorted.
    pub fn languages(&self) -> Vec<String> {
        if self.class.usual_source().is_none() {
            return Vec::new();
        }
        let mut found: Vec<String> =
            self.inner.get_vocab(true).into_keys().filter(|token| self.looks_like_language(token)).collect();
        found.sort();
        found
    }
}
