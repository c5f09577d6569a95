//! A model that Python holds: the frozen one, with adapters over it, or away in a run.

use crate::array::Array;
use crate::errors::{argument, exception, raise};
use crate::tensors::{Described, memory};
use crate::values::written;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use toktune::Device;
use toktune::models::{AutoModel, ModelConfig, ModelKind, PrecisionMode, PretrainedModel};
use toktune::peft::{ActiveRows, BaseModel, LayerKind, NamedLayer, PeftModel};
use toktune::weights::{Checkpoint, Memory, RowOrder, WeightType, WeightsError};

/// What a model is at the moment. Whoever looks at it shares it, so that nothing is locked while something is computed.
pub(crate) enum Held {
    /// As it was loaded.
    Base(Arc<PretrainedModel>),
    /// With adapters.
    Adapted(Arc<PeftModel>),
    /// A run has it.
    Away,
    /// A run has it, and waits while a callback is told of it.
    Lent(Lent),
}

/// The model of a run, for as long as a callback takes.
pub(crate) struct Lent {
    model: *const PeftModel,
    /// How many look at it.
    looking: usize,
}

// SAFETY: the model behind the pointer is `Sync`, and is only looked at.
unsafe impl Send for Lent {}

/// A model. `toktune.PreTrainedModel` and `toktune.PeftModel` are over it.
#[pyclass(frozen, module = "toktune._toktune")]
pub struct Model {
    held: Mutex<Held>,
}

/// A model as it is now.
#[derive(Clone, Copy)]
pub(crate) enum Seen<'a> {
    Base(&'a PretrainedModel),
    Adapted(&'a PeftModel),
}

impl<'a> Seen<'a> {
    pub(crate) fn base(self) -> &'a PretrainedModel {
        match self {
            Seen::Base(base) => base,
            Seen::Adapted(model) => model.base(),
        }
    }

    /// What its active adapters replace and add.
    pub(crate) fn active(self) -> ActiveRows<'a> {
        match self {
            Seen::Base(_) => ActiveRows::default(),
            Seen::Adapted(model) => model.active(),
        }
    }

    /// The adapters over it.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn adapted(self) -> PyResult<&'a PeftModel> {
        match self {
            Seen::Adapted(model) => Ok(model),
            Seen::Base(_) => Err(no_adapter()),
        }
    }
}

fn away() -> PyErr {
    exception(
        "InputError",
        "the model is being trained: what it is can be asked by a callback of the run, or when it has ended",
    )
}

impl Model {
    pub(crate) fn of_base(base: PretrainedModel) -> Self {
        Self { held: Mutex::new(Held::Base(base.into())) }
    }

    pub(crate) fn of_adapted(model: PeftModel) -> Self {
        Self { held: Mutex::new(Held::Adapted(model.into())) }
    }

    fn held(&self, py: Python<'_>) -> MutexGuard<'_, Held> {
        // whoever panicked left a whole model, or one that is away
        self.held.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the model. Nothing is locked meanwhile: what looks may call Python, which may look again.
    ///
    /// # Errors
    /// A run has it; the process is a fork of the one that computed; what `look` gives.
    pub(crate) fn look<R>(&self, py: Python<'_>, look: impl FnOnce(Seen<'_>) -> PyResult<R>) -> PyResult<R> {
        check_process()?;
        let lent = match &mut *self.held(py) {
            Held::Base(base) => Ok(Ok(base.clone())),
            Held::Adapted(model) => Ok(Err(model.clone())),
            Held::Lent(lent) => {
                lent.looking += 1;
                Err(lent.model)
            }
            Held::Away => return Err(away()),
        };
        match lent {
            Ok(Ok(base)) => look(Seen::Base(&base)),
            Ok(Err(model)) => look(Seen::Adapted(&model)),
            Err(model) => {
                let _looking = Looking(self, py);
                // SAFETY: who lends waits until nobody looks any more before the model can change or end
                look(Seen::Adapted(unsafe { &*model }))
            }
        }
    }

    /// Computes something with the model, without the interpreter's lock.
    ///
    /// # Errors
    /// As [`Model::look`].
    pub(crate) fn compute<R: Send>(
        &self,
        py: Python<'_>,
        compute: impl FnOnce(Seen<'_>) -> toktune::Result<R> + Send,
    ) -> PyResult<R> {
        self.look(py, |seen| py.detach(|| compute(seen)).map_err(raise))
    }

    /// Changes the frozen model.
    ///
    /// # Errors
    /// It has adapters, a run has it, or something is computed with it; what `change` gives.
    fn change_base<R>(
        &self,
        py: Python<'_>,
        change: impl FnOnce(&mut PretrainedModel) -> PyResult<R>,
    ) -> PyResult<R> {
        match &mut *self.held(py) {
            Held::Base(base) => change(Arc::get_mut(base).ok_or_else(in_use)?),
            Held::Adapted(_) => Err(exception(
                "InputError",
                "the model has adapters, whose rows were made for it as it is: change it before get_peft_model",
            )),
            Held::Away | Held::Lent(_) => Err(away()),
        }
    }

    /// Changes the adapters.
    ///
    /// # Errors
    /// There are none, a run has the model, or something is computed with it; what `change` gives.
    pub(crate) fn change<R>(
        &self,
        py: Python<'_>,
        change: impl FnOnce(&mut PeftModel) -> PyResult<R>,
    ) -> PyResult<R> {
        match &mut *self.held(py) {
            Held::Adapted(model) => change(Arc::get_mut(model).ok_or_else(in_use)?),
            Held::Base(_) => Err(no_adapter()),
            Held::Away | Held::Lent(_) => Err(away()),
        }
    }

    /// Takes the model for a run, which gives it back by [`Model::put`].
    ///
    /// # Errors
    /// It has no adapter, a run has it, or something is computed with it; what `check` gives. Then it stays.
    pub(crate) fn take(
        &self,
        py: Python<'_>,
        check: impl FnOnce(&PeftModel) -> toktune::Result<()>,
    ) -> PyResult<PeftModel> {
        check_process()?;
        let mut held = self.held(py);
        match &*held {
            Held::Adapted(model) => check(model).map_err(raise)?,
            Held::Base(_) => return Err(no_adapter()),
            Held::Away | Held::Lent(_) => return Err(away()),
        }
        match std::mem::replace(&mut *held, Held::Away) {
            Held::Adapted(model) => Arc::try_unwrap(model).map_err(|model| {
                *held = Held::Adapted(model);
                in_use()
            }),
            other => {
                *held = other;
                Err(away())
            }
        }
    }

    /// Gives the model back.
    pub(crate) fn put(&self, py: Python<'_>, model: PeftModel) {
        *self.held(py) = Held::Adapted(model.into());
    }

    /// Lets Python look at the model of a run while `tell` runs.
    pub(crate) fn lend<R>(&self, py: Python<'_>, model: &PeftModel, tell: impl FnOnce() -> R) -> R {
        *self.held(py) = Held::Lent(Lent { model, looking: 0 });
        let _taken = TakenBack(self, py);
        tell()
    }
}

/// Takes a lent model away again when nobody looks at it any more, whatever happens.
struct TakenBack<'g, 'py>(&'g Model, Python<'py>);

impl Drop for TakenBack<'_, '_> {
    fn drop(&mut self) {
        loop {
            let mut held = self.0.held(self.1);
            match &*held {
                Held::Lent(lent) if lent.looking > 0 => {
                    drop(held);
                    // another thread of Python's does, which needs the interpreter to end
                    self.1.detach(|| std::thread::sleep(Duration::from_millis(1)));
                }
                _ => {
                    *held = Held::Away;
                    return;
                }
            }
        }
    }
}

/// Somebody who looks at a lent model.
struct Looking<'g, 'py>(&'g Model, Python<'py>);

impl Drop for Looking<'_, '_> {
    fn drop(&mut self) {
        if let Held::Lent(lent) = &mut *self.0.held(self.1) {
            lent.looking -= 1;
        }
    }
}

fn in_use() -> PyErr {
    exception(
        "InputError",
        "something is computed with the model: it can be changed and trained when that has ended",
    )
}

fn no_adapter() -> PyErr {
    exception("InputError", "the model has no adapter: get_peft_model gives it one")
}

/// The threads of the engine are not there in a child that a process forks.
///
/// # Errors
/// This process was forked from one that had loaded the engine.
pub(crate) fn check_process() -> PyResult<()> {
    static LOADED_BY: OnceLock<u32> = OnceLock::new();
    let now = std::process::id();
    match *LOADED_BY.get_or_init(|| now) == now {
        true => Ok(()),
        false => Err(exception(
            "InputError",
            "this process was forked from one that had computed with toktune, whose threads are not here: start processes by \
             multiprocessing's \"spawn\" method",
        )),
    }
}

/// How products are taken, by the name that the command line has for it.
fn precision(mode: &str) -> PyResult<PrecisionMode> {
    match mode {
        "auto" => Ok(PrecisionMode::Auto),
        "f32" => Ok(PrecisionMode::F32),
        "bf16" => Ok(PrecisionMode::Bf16),
        _ => Err(argument("precision", "auto, f32 or bf16", mode)),
    }
}

/// A kind of model, in a word.
fn kind_of(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Causal => "causal",
        ModelKind::MaskedLm => "masked",
        ModelKind::Seq2Seq => "seq2seq",
        ModelKind::SentencePairs => "pairs",
    }
}

/// Where a model lies: a path as it stands, else the Hub's copy.
pub(crate) fn locate(name: &str) -> toktune::Result<PathBuf> {
    let path = Path::new(name);
    #[cfg(feature = "hub")]
    if !path.exists() && toktune::hub::is_id(name) {
        return Ok(toktune::hub::snapshot(name, &mut |_| {})?);
    }
    match path.exists() {
        true => Ok(path.to_path_buf()),
        false => Err(WeightsError::io(path)(std::io::ErrorKind::NotFound.into()).into()),
    }
}

/// The embedding or head whose weight a tensor is.
fn token_layer<'l>(layers: &'l [NamedLayer], tensor: &str) -> Option<&'l NamedLayer> {
    let layer = tensor.strip_suffix(".weight")?;
    layers.iter().find(|of| of.name == layer && of.kind != LayerKind::Linear)
}

#[pymethods]
impl Model {
    /// Opens a folder, a file, or an id of the Hub.
    #[staticmethod]
    fn open(py: Python<'_>, name: &str) -> PyResult<Self> {
        let open = || Ok::<_, toktune::Error>(AutoModel::from_pretrained(locate(name)?, &Device::Cpu)?);
        py.detach(open).map(Self::of_base).map_err(raise)
    }

    /// Takes a model's tensors where they lie, with the configuration that transformers has for them.
    #[staticmethod]
    fn in_memory(py: Python<'_>, name: &str, config: &str, tensors: Vec<Described<'_>>) -> PyResult<Self> {
        let config: Map<String, Value> = crate::values::parsed("config", config)?;
        let tensors = memory(tensors)?;
        let open = || {
            let folder = Path::new(name);
            let checkpoint = Checkpoint::Memory(Memory::new(&folder.join("memory"), tensors)?);
            let config = ModelConfig::from_object(folder.join("config.json"), config);
            Ok::<_, toktune::Error>(AutoModel::from_checkpoint(folder, config, checkpoint, &Device::Cpu)?)
        };
        py.detach(open).map(Self::of_base).map_err(raise)
    }

    /// The frozen model once more, over the same weights.
    fn copy_of_base(&self, py: Python<'_>) -> PyResult<Self> {
        self.compute(py, |seen| Ok(seen.base().try_clone()?)).map(Self::of_base)
    }

    /// The model with its adapters once more, over the same weights.
    fn copy_of_adapted(&self, py: Python<'_>) -> PyResult<Self> {
        self.look(py, |seen| py.detach(|| seen.adapted().map(PeftModel::try_clone))?.map_err(raise))
            .map(Self::of_adapted)
    }

    /// Takes products in `f32`, in `bf16`, or as the machine and the weights suggest (`auto`).
    fn set_precision(&self, py: Python<'_>, mode: &str) -> PyResult<()> {
        let mode = precision(mode)?;
        self.change_base(py, |base| {
            base.set_precision(mode);
            Ok(())
        })
    }

    /// Gives the embedding, and an untied head, at least so many rows.
    fn resize(&self, py: Python<'_>, rows: usize) -> PyResult<()> {
        /// What a slip of the keyboard should not turn into memory.
        const MOST: usize = 1 << 24;
        if rows > MOST {
            return Err(argument("new_num_tokens", "at most 16,777,216", rows));
        }
        self.change_base(py, |base| {
            base.resize_token_embeddings(rows);
            Ok(())
        })
    }

    /// What the model is, as JSON.
    fn describe(&self, py: Python<'_>) -> PyResult<String> {
        self.look(py, |seen| {
            let base = seen.base();
            written(&json!({
                "path": base.path(),
                "family": base.family().name,
                "kind": kind_of(base.kind()),
                "told": base.kind().to_string(),
                "model_type": base.config().model_type(),
                "config": base.config().object(),
                "vocabulary": base.vocabulary(),
                "stored_rows": base.embedding().frozen().rows(),
                "hidden_size": base.hidden_size(),
                "parameters": base.num_parameters(),
                "embedding": base.embedding_name(),
                "head": base.has_head().then(|| base.head_name()),
                "tied": base.is_tied(),
                "bf16": base.uses_bf16(),
                "positions": base.max_positions(),
                "auto_class": base.auto_class(),
                "task_type": BaseModel::task_type(base),
            }))
        })
    }

    /// Every embedding and linear layer: name, kind, rows, columns.
    fn layers(&self, py: Python<'_>) -> PyResult<Vec<(String, &'static str, usize, usize)>> {
        self.look(py, |seen| {
            let kind = |of| match of {
                LayerKind::Embedding => "embedding",
                LayerKind::Head => "head",
                LayerKind::Linear => "linear",
            };
            let layers = seen.base().named_layers().into_iter();
            Ok(layers.map(|layer| (layer.name, kind(layer.kind), layer.rows, layer.cols)).collect())
        })
    }

    /// Every tensor: name, shape, and its type as its file calls it. A token matrix has the rows that a resize gave it.
    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<(String, Vec<usize>, String)>> {
        self.look(py, |seen| {
            let checkpoint = seen.base().checkpoint();
            let layers = seen.base().named_layers();
            let of = |name: &str| {
                let mut shape = checkpoint.shape(name).unwrap_or_default().to_vec();
                if let (Some(layer), [rows, _]) = (token_layer(&layers, name), &mut shape[..]) {
                    *rows = layer.rows;
                }
                (name.to_owned(), shape, checkpoint.type_name(name).unwrap_or_default().to_owned())
            };
            Ok(checkpoint.names().map(of).collect())
        })
    }

    /// A tensor in the type that it is stored in; one in blocks of a quantised format as `f32`.
    fn tensor(&self, py: Python<'_>, name: &str) -> PyResult<Array> {
        self.compute(py, |seen| {
            let base = seen.base();
            let checkpoint = base.checkpoint();
            let shape = checkpoint.shape(name).unwrap_or_default();
            let dtype = checkpoint.dtype(name);
            if let Some(layer) = token_layer(&base.named_layers(), name) {
                let matrix = base.weight(&layer.name)?;
                let (values, shape) = (matrix.decode_rows(0..matrix.rows()), [matrix.rows(), matrix.cols()]);
                return Ok(match dtype {
                    Some(WeightType::BF16) => Array::rounded(&values, &shape),
                    _ => Array::new(values, &shape),
                });
            }
            let bits = || {
                let (pairs, _) = checkpoint.stored_bytes(name).unwrap_or_default().as_chunks::<2>();
                pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
            };
            match (dtype, shape) {
                (Some(WeightType::BF16), _) => Ok(Array::bf16(bits(), shape)),
                (Some(WeightType::F16), _) => Ok(Array::f16(bits(), shape)),
                (_, [len]) => Ok(Array::new(checkpoint.vector(name, *len)?, shape)),
                _ => {
                    let cols = shape.last().copied().unwrap_or(1).max(1);
                    let rows = shape.iter().product::<usize>() / cols;
                    let matrix = checkpoint.matrix(name, rows, cols, RowOrder::Plain)?;
                    Ok(Array::new(matrix.decode_rows(0..rows), shape))
                }
            }
        })
    }

    /// The weight of a layer, `[rows, columns]`.
    fn weight(&self, py: Python<'_>, layer: &str) -> PyResult<Array> {
        self.compute(py, |seen| {
            let matrix = seen.base().weight(layer)?;
            let (rows, cols) = (matrix.rows(), matrix.cols());
            Ok(Array::new(matrix.decode_rows(0..rows), &[rows, cols]))
        })
    }
}
