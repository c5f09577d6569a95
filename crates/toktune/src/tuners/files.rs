//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The rows are stored as `f32` replacements, in the order of `token_indices`, under the key of the module and, in a
//! tied model, under that of the head too: without the second PEFT warns of a missing key.

use super::model::PeftModel;
use crate::config::TrainableTokensConfig;
use crate::error::{Error, Result};
use crate::models::CausalLm;
use crate::weights::{Checkpoint, write_atomically};
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// The name of the tensors' file in an adapter's folder.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// The key of a module's rows.
fn key(module: &str) -> String {
    format!("base_model.model.{module}.trainable_tokens_delta")
}

/// The adapter's tensors by PEFT's keys: rows `[k, d]`, their shape and values.
pub fn get_peft_model_state_dict(model: &PeftModel) -> BTreeMap<String, ([usize; 2], &[f32])> {
    model
        .layers()
        .iter()
        .flat_map(|layer| layer.modules().map(move |module| (module, layer.rows())))
        .map(|(module, rows)| (key(module), ([rows.indices().len(), rows.width()], rows.values.as_slice())))
        .collect()
}

impl PeftModel {
    /// Writes the adapter into `folder`, which is created if needed: the configuration and the rows, each file whole or
    /// not at all.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_pretrained(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let tensors: Vec<(String, [usize; 2], Vec<u8>)> = get_peft_model_state_dict(self)
            .into_iter()
            .map(|(key, (shape, values))| (key, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = tensors
            .iter()
            .map(|(key, shape, bytes)| {
                Ok((key.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes)?))
            })
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| Error::Serialise(e.to_string()))?;
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        let bytes = serialize(views, Some(metadata)).map_err(|e| Error::Serialise(e.to_string()))?;
        write_file(&folder.join(ADAPTER_FILE), &bytes)?;
        let config = TrainableTokensConfig { inference_mode: true, ..self.config().clone() };
        write_file(&folder.join(crate::config::CONFIG_FILE), config.to_json()?.as_bytes())
    }

    /// Wraps `base` with the adapter in `folder`.
    ///
    /// # Errors
    /// The folder holds no adapter of this method, or one that does not fit the model: another width, tokens past the
    /// vocabulary, a missing or unexpected tensor.
    pub fn from_pretrained(base: CausalLm, folder: &Path) -> Result<Self> {
        let config = TrainableTokensConfig::from_pretrained(folder)?;
        let mut model =
            super::get_peft_model(base, TrainableTokensConfig { init_weights: true, ..config.clone() })?;
        model.config_mut().init_weights = config.init_weights;
        model.load_rows(folder)?;
        Ok(model)
    }

    /// Replaces the rows by those stored in `folder`.
    ///
    /// # Errors
    /// The tensors there are not those of this adapter: one is missing, unexpected, of another shape, or not finite.
    pub fn load_rows(&mut self, folder: &Path) -> Result<()> {
        let stored = Checkpoint::open(&folder.join(ADAPTER_FILE))?;
        let expected: Vec<String> = get_peft_model_state_dict(self).into_keys().collect();
        if let Some(other) = stored.names().find(|name| !expected.iter().any(|e| e == name)) {
            let path = folder.join(ADAPTER_FILE);
            return Err(Error::UnexpectedTensor { path, name: other.to_string(), expected });
        }
        for layer in self.layers_mut() {
            let (k, width) = (layer.rows().indices().len(), layer.rows().width());
            let matrix = stored.matrix(&key(layer.name()), k, width, crate::weights::RowOrder::Plain)?;
            if let Some((row, _)) = matrix.first_non_finite() {
                return Err(Error::NotFinite { what: format!("{}: row {row}", matrix.name()) });
            }
            layer.rows_mut().values = matrix.decode_rows(0..k);
        }
        Ok(())
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| file.write_all(bytes).map_err(Error::io(path)))
}
