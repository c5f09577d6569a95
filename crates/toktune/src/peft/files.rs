//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`, which is only read).

use super::adapter::DEFAULT_ADAPTER;
use super::base::{BaseModel, NamedLayer};
use super::layer::TrainableTokensLayer;
use super::model::PeftModel;
use super::state_dict::{
    DELTA, LoadResult, PREFIX, SaveEmbeddingLayers, StateDict, get_peft_model_state_dict, is_tied_copy,
    set_embeddings, set_peft_model_state_dict, whole_weight_of,
};
use crate::config::{CONFIG_FILE, LoraConfig, PeftConfig};
use crate::models::TrainedRows;
use crate::peft::error::{PeftError, Result};
use crate::weights::WeightsError;
use crate::weights::{
    Checkpoint, FrozenMatrix, RowOrder, TensorHeader, TensorOut, WeightType, write_atomically,
    write_safetensors_into,
};
use serde_json::Map;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use toktune_engine::EngineError;

/// The name of the tensors' file in an adapter's folder.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// PEFT's name of the file when it is told not to use safetensors, or was too old to.
const TORCH_FILE: &str = "adapter_model.bin";

/// The tensors' file in an adapter's folder: [`ADAPTER_FILE`], or the file of torch that old adapters have in its place.
pub fn adapter_file(folder: &Path) -> PathBuf {
    let (safetensors, torch) = (folder.join(ADAPTER_FILE), folder.join(TORCH_FILE));
    if !safetensors.exists() && torch.exists() { torch } else { safetensors }
}

impl<M: BaseModel> PeftModel<M> {
    /// Writes every adapter, each file whole or not at all: `default` into `folder`, which is created if needed, and any
    /// other into a folder of its name there, as PEFT does.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_pretrained(&self, folder: &Path, save_embedding_layers: SaveEmbeddingLayers) -> Result<()> {
        for adapter in &self.adapters {
            let target = match adapter.name.as_str() {
                DEFAULT_ADAPTER => folder.to_path_buf(),
                name => folder.join(name),
            };
            self.save_adapter(&adapter.name, &target, save_embedding_layers)?;
        }
        Ok(())
    }

    /// Writes one adapter into `folder`, whatever its name.
    ///
    /// # Errors
    /// There is no such adapter, it has biases or whole modules, or a file cannot be written.
    pub fn save_adapter(
        &self,
        name: &str,
        folder: &Path,
        save_embedding_layers: SaveEmbeddingLayers,
    ) -> Result<()> {
        if let Some((field, found)) = self.config(name)?.not_trained() {
            return Err(PeftError::NotTrained { field, found });
        }
        let tensors = get_peft_model_state_dict(self, name, save_embedding_layers)?;
        std::fs::create_dir_all(folder).map_err(WeightsError::io(folder))?;
        write_tensors(&folder.join(ADAPTER_FILE), &tensors)?;
        let mut config = self.config(name)?.clone();
        config.common_mut().inference_mode = true;
        let (path, json) = (folder.join(CONFIG_FILE), config.to_json()?);
        Ok(write_atomically(&path, |file| file.write_all(json.as_bytes()).map_err(WeightsError::io(&path)))?)
    }

    /// Wraps `base` with the adapter in `folder`, called `default` and active.
    ///
    /// # Errors
    /// The folder holds no adapter of a known method, or one that does not fit the model: another width, tokens past the
    /// rows of the base (see [`PeftError::TooFewRows`]), a missing or unexpected tensor.
    pub fn from_pretrained(base: M, folder: &Path) -> Result<Self> {
        let mut model = Self::without_adapter(base);
        let result = model.load_adapter(folder, DEFAULT_ADAPTER)?;
        model.refuse_misfits(&adapter_file(folder), DEFAULT_ADAPTER, result)?;
        model.set_adapter(&[DEFAULT_ADAPTER])?;
        Ok(model)
    }

    /// Adds the adapter in `folder` under `name`, without making it active, and says which of its tensors were missing
    /// (and are as in a fresh adapter) and which are not its own (and were ignored), as PEFT does.
    ///
    /// # Errors
    /// As [`PeftModel::from_pretrained`], but for missing and unexpected tensors; there is an adapter of this name. The
    /// model has no such adapter then.
    pub fn load_adapter(&mut self, folder: &Path, name: &str) -> Result<LoadResult> {
        self.check_new_name(name)?;
        self.refuse_merged("loading an adapter")?;
        let config = PeftConfig::from_pretrained(folder)?;
        let StoredTensors { matrices: tensors, vectors, others } = StoredTensors::read(folder)?;
        let token_layers = self.base.named_layers().into_iter().filter(|layer| layer.has_token_rows());
        let before = token_layers.map(|layer| Ok((self.base.keep(&layer.name)?, layer.name)));
        let before: Vec<_> = before.collect::<Result<_>>()?;
        match self.load_tensors(config, tensors, vectors, name) {
            Ok(mut result) => {
                result.unexpected_keys.extend(others);
                Ok(result)
            }
            Err(error) => {
                self.adapters.retain(|adapter| adapter.name != name);
                for (kept, layer) in before {
                    self.base.restore(&layer, kept)?;
                }
                Err(error.in_file(folder.join(CONFIG_FILE)))
            }
        }
    }

    fn load_tensors(
        &mut self,
        config: PeftConfig,
        mut tensors: StateDict,
        mut vectors: Vectors,
        name: &str,
    ) -> Result<LoadResult> {
        let layers = self.base.named_layers();
        self.refuse_whole_tied(&config, &tensors)?;
        // whole embeddings come first: the tokens may lie in rows that only they have
        set_embeddings(&mut self.base, &tensors)?;
        let inference_mode = config.common().inference_mode;
        let init_weights = started_from_base(&config);
        self.add_adapter(name, init_weights).map_err(|error| self.explained(error, &config))?;
        self.follow_configuration(&config, &tensors, name)?;
        if self.base.has_other_linears() {
            drop_idle_updates(&mut tensors, &layers);
        }
        tensors.retain(|key, _| whole_weight_of(key, &layers).is_none());
        if let Some((field, _)) = config.not_trained() {
            let whole = take_whole(&mut tensors, std::mem::take(&mut vectors));
            self.base.replace_tensors(field, &whole)?;
        }
        let mut result = set_peft_model_state_dict(self, &tensors, name)?;
        result.unexpected_keys.extend(vectors.into_keys());
        let adapter = self.adapter_mut(name)?;
        adapter.config = with_targets(config, &adapter.config);
        adapter.config.common_mut().inference_mode = inference_mode;
        Ok(result)
    }

    /// Replaces the values of the active adapter by those stored in `folder`.
    ///
    /// # Errors
    /// The tensors there are not those of this adapter: one is missing, unexpected, of another shape, or not finite.
    pub fn load_values(&mut self, folder: &Path) -> Result<()> {
        let name = self.trained_adapter()?.name().to_string();
        let StoredTensors { matrices: tensors, vectors, others } = StoredTensors::read(folder)?;
        let mut result = set_peft_model_state_dict(self, &tensors, &name)?;
        result.unexpected_keys.extend(vectors.into_keys().chain(others));
        self.refuse_misfits(&adapter_file(folder), &name, result)
    }

    /// A silent misfit is the worst of all: what PEFT only reports is an error where nobody would read the report.
    fn refuse_misfits(&self, path: &Path, name: &str, result: LoadResult) -> Result<()> {
        let adapter = self.adapter(name)?;
        if let Some(name) = result.unexpected_keys.first() {
            let expected = get_peft_model_state_dict(self, adapter.name(), SaveEmbeddingLayers::No)?;
            let expected = expected.into_keys().take(8).collect();
            return Err(PeftError::UnexpectedTensor { path: path.into(), name: name.clone(), expected });
        }
        let (copies, missing): (Vec<_>, Vec<_>) =
            result.missing_keys.into_iter().partition(|key| is_tied_copy(adapter, key));
        if !copies.is_empty() {
            tracing::warn!("{}: the rows of the tied {} are not stored", path.display(), copies.join(", "));
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(PeftError::MissingKeys { path: path.into(), keys: missing }),
        }
    }

    /// Gives the adapter rows of a head that the configuration ties and the file does not, where its file has such: it was
    /// trained where they were one. The head's other rows stay its own.
    fn follow_configuration(&mut self, config: &PeftConfig, tensors: &StateDict, name: &str) -> Result<()> {
        let (PeftConfig::TrainableTokens(config), Some(tie)) = (config, self.base.tied_by_configuration())
        else {
            return Ok(());
        };
        let stored = tensors.contains_key(&format!("{PREFIX}{}.{DELTA}", tie.layer));
        let adapter = self.adapter(name)?;
        if stored && adapter.rows_on(&tie.layer).is_none() && adapter.rows_on(&tie.source).is_some() {
            let tokens = config.token_indices.clone();
            let values = self.base.weight_rows(&tie.layer, &tokens)?;
            let width = values.len() / tokens.len().max(1);
            let rows = TrainedRows::new(tokens, width, values);
            let layer = TrainableTokensLayer::new(tie.layer, Vec::new(), rows);
            self.adapter_mut(name)?.tokens.push(layer);
        }
        Ok(())
    }

    /// A whole embedding or head that is trained apart from the one it is tied to would make two matrices of one; and one that is
    /// asked for and not there would be the base's without a word.
    fn refuse_whole_tied(&self, config: &PeftConfig, tensors: &StateDict) -> Result<()> {
        let PeftConfig::Lora(LoraConfig { modules_to_save: Some(modules), .. }) = config else {
            return Ok(());
        };
        let (layers, tied) = (self.base.named_layers(), self.base.tied_layers());
        let is_asked_for = |layer: &NamedLayer| {
            let path = format!(".{}.", layer.name);
            modules.iter().any(|module| path.contains(&format!(".{module}.")))
        };
        let refused = |tensor: &str, problem| {
            Err(PeftError::WholeModule { field: "modules_to_save", tensor: tensor.to_owned(), problem })
        };
        for key in tensors.keys() {
            let Some(layer) = whole_weight_of(key, &layers).filter(|layer| is_asked_for(layer)) else {
                continue;
            };
            if tied.iter().any(|tie| tie.layer == layer.name || tie.source == layer.name) {
                return refused(
                    key,
                    "which is one matrix with another module of this base; expected a base with two",
                );
            }
        }
        for layer in layers.iter().filter(|layer| layer.has_token_rows() && is_asked_for(layer)) {
            let is_there =
                |key: &String| whole_weight_of(key, &layers).is_some_and(|of| of.name == layer.name);
            if !tensors.keys().any(is_there) {
                return refused(
                    &layer.name,
                    "of which the adapter's file (adapter_model.safetensors) holds nothing",
                );
            }
        }
        Ok(())
    }

    /// A token past the base's rows is told with what leads to it.
    fn explained(&self, error: PeftError, config: &PeftConfig) -> PeftError {
        let PeftError::Engine(EngineError::TokenOutOfRange { rows, .. }) = error else { return error };
        let layers = self.base.named_layers();
        let layer = layers.iter().find(|layer| layer.has_token_rows() && layer.rows == rows);
        let token = config.token_indices().into_iter().find(|&id| id as usize >= rows).unwrap_or_default();
        let layer = layer.map_or_else(String::new, |layer| layer.name.clone());
        PeftError::TooFewRows { token, layer, rows }
    }
}

/// The configuration with which an adapter is made whose values are about to be set: no random start.
fn started_from_base(config: &PeftConfig) -> PeftConfig {
    let mut config = config.clone();
    if let PeftConfig::TrainableTokens(tokens) = &mut config {
        tokens.init_weights = true;
    }
    config
}

/// The stored configuration with the targets that the model filled in.
fn with_targets(mut stored: PeftConfig, made: &PeftConfig) -> PeftConfig {
    match (&mut stored, made) {
        (PeftConfig::TrainableTokens(stored), PeftConfig::TrainableTokens(made)) => {
            stored.target_modules = made.target_modules.clone();
        }
        (PeftConfig::Lora(stored), PeftConfig::Lora(made)) => {
            stored.target_modules = made.target_modules.clone();
        }
        _ => {}
    }
    stored
}

/// Takes out the updates of layers that the base does not name, where they change nothing: PEFT wraps layers of a vision tower
/// whose names end alike, and training on text leaves their `lora_B` at zero.
fn drop_idle_updates(tensors: &mut StateDict, layers: &[NamedLayer]) {
    let module = |key: &str| {
        let name = key.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
        let name = name.strip_suffix(".lora_B").or_else(|| name.strip_suffix(".lora_A"))?;
        (!layers.iter().any(|layer| layer.name == name)).then(|| name.to_owned())
    };
    let idle = |tensor: &FrozenMatrix| tensor.decode_rows(0..tensor.rows()).iter().all(|x| *x == 0.0);
    let found = tensors.iter().filter(|(key, tensor)| key.ends_with(".lora_B.weight") && idle(tensor));
    let found: Vec<String> = found.filter_map(|(key, _)| module(key)).collect();
    tensors.retain(|key, _| module(key).is_none_or(|name| !found.contains(&name)));
}

/// Takes the weights and biases of whole modules out of what an adapter's file holds, by the names of the modules.
fn take_whole(tensors: &mut StateDict, vectors: Vectors) -> Vec<(String, Vec<f32>)> {
    // a wrapped layer keeps its own bias beneath it
    let module = |key: &str| key.strip_prefix(PREFIX).map(|name| name.replace(".base_layer.", "."));
    let of_vectors = vectors.into_iter().filter_map(|(key, values)| Some((module(&key)?, values)));
    let mut whole: Vec<(String, Vec<f32>)> = of_vectors.collect();
    tensors.retain(|key, tensor| {
        let name = module(key).filter(|_| is_whole(key));
        let is_whole = name.is_some();
        whole.extend(name.map(|name| (name, tensor.decode_rows(0..tensor.rows()))));
        !is_whole
    });
    whole
}

/// Whether a key is that of a module's own weight or bias.
fn is_whole(key: &str) -> bool {
    let is_update = key.ends_with(".lora_A.weight") || key.ends_with(".lora_B.weight");
    (key.ends_with(".weight") || key.ends_with(".bias")) && !is_update
}

/// Vectors by their keys.
type Vectors = BTreeMap<String, Vec<f32>>;

/// What an adapter's file holds.
struct StoredTensors {
    matrices: StateDict,
    vectors: Vectors,
    /// The names of what is neither.
    others: Vec<String>,
}

impl StoredTensors {
    fn read(folder: &Path) -> Result<Self> {
        let stored = Checkpoint::open(&adapter_file(folder))?;
        let mut found = Self { matrices: StateDict::new(), vectors: Vectors::new(), others: Vec::new() };
        for name in stored.names() {
            match (stored.shape(name), stored.dtype(name)) {
                (Some(&[rows, cols]), Some(_)) => {
                    found.matrices.insert(name.into(), stored.matrix(name, rows, cols, RowOrder::Plain)?);
                }
                (Some(&[len]), Some(_)) => {
                    found.vectors.insert(name.into(), stored.vector(name, len)?);
                }
                _ => found.others.push(name.into()),
            }
        }
        Ok(found)
    }
}

pub(super) fn write_tensors(path: &Path, tensors: &StateDict) -> Result<()> {
    let plain = tensors.iter().map(|(key, tensor)| Ok((key, storable(tensor)?)));
    let plain: Vec<(&String, FrozenMatrix)> = plain.collect::<Result<_>>()?;
    let header = |(key, tensor): &(&String, FrozenMatrix)| TensorHeader {
        name: (*key).clone(),
        dtype: tensor.dtype().name().into(),
        shape: vec![tensor.rows(), tensor.cols()],
        bytes: tensor.stored_bytes().len() as u64,
    };
    let headers: Vec<TensorHeader> = plain.iter().map(header).collect();
    let metadata = Map::from_iter([("format".to_owned(), "pt".into())]);
    write_atomically(path, |file| {
        let mut put = |at: usize, out: &mut TensorOut<'_>| Ok(out.put(plain[at].1.stored_bytes())?);
        write_safetensors_into(path, file, &metadata, &headers, &mut put)
    })
}

/// A matrix as a safetensors file can hold it: quantised blocks and interleaved rows become plain numbers.
fn storable(tensor: &FrozenMatrix) -> Result<FrozenMatrix> {
    let plain = matches!(tensor.dtype(), WeightType::F32 | WeightType::F16 | WeightType::BF16);
    Ok(match plain && tensor.order() == RowOrder::Plain {
        true => tensor.clone(),
        false => tensor.map_rows(|_, _| {})?,
    })
}
