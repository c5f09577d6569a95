//! A candle model of one's own with two embeddings, whose chosen rows are trained by candle's own autograd.
//!
//!     cargo run --release --example two_embeddings
//!
//! The model sees a word and a colour and says which of three things is meant. Words 5 and 6 and colours 5 and 6 are new:
//! only their rows are trained, by one configuration with two target modules.

use candle_core::{Device, Result, Tensor};
use toktune::TrainableTokensConfig;
use toktune::config::TargetModules;
use toktune::peft::{LayerKind, PeftError, PeftModel, SaveEmbeddingLayers, get_peft_model};
use toktune::train::{AdamW, AdamWConfig};
use toktune_candle::{Bind, CandleAdapters, CandleLayer, CandleModel, OnCandle};

const WORDS: usize = 10;
const COLOURS: usize = 8;
const WIDTH: usize = 16;
const THINGS: usize = 3;

/// The frozen model: two embeddings, added, and a linear layer.
struct Model {
    words: Tensor,
    colours: Tensor,
    out: Tensor,
}

impl Model {
    fn new(device: &Device) -> Result<Self> {
        let random = |rows: usize, cols: usize| Tensor::randn(0f32, 0.5, (rows, cols), device);
        Ok(Self {
            words: random(WORDS, WIDTH)?,
            colours: random(COLOURS, WIDTH)?,
            out: random(THINGS, WIDTH)?,
        })
    }

    /// The logits `[rows, THINGS]`. Each layer asks the adapters for its result.
    fn forward(
        &self,
        adapters: &CandleAdapters,
        words: &Tensor,
        colours: &Tensor,
    ) -> toktune_candle::Result<Tensor> {
        let words = adapters.embedding("words", &self.words, words)?;
        let colours = adapters.embedding("colours", &self.colours, colours)?;
        adapters.linear("out", &self.out, None, &(words + colours)?.tanh()?)
    }
}

impl CandleModel for Model {
    fn layers(&self) -> Vec<CandleLayer> {
        let layer = |name: &str, kind, weight: &Tensor| CandleLayer {
            name: name.into(),
            kind,
            weight: weight.clone(),
        };
        vec![
            layer("words", LayerKind::Embedding, &self.words),
            layer("colours", LayerKind::Embedding, &self.colours),
            layer("out", LayerKind::Linear, &self.out),
        ]
    }

    fn set_weight(&mut self, layer: &str, weight: Tensor) {
        match layer {
            "words" => self.words = weight,
            "colours" => self.colours = weight,
            _ => self.out = weight,
        }
    }
}

/// The mean cross-entropy.
fn loss(logits: &Tensor, things: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    let of_label = shifted.broadcast_sub(&log_sum)?.gather(&things.unsqueeze(1)?, 1)?;
    of_label.mean_all()?.neg()
}

fn main() -> toktune_candle::Result<()> {
    let device = Device::Cpu;
    let targets = TargetModules::Names(vec!["words".into(), "colours".into()]);
    let mut config = TrainableTokensConfig::new([5, 6]);
    config.target_modules = Some(targets);
    let mut model = get_peft_model(OnCandle(Model::new(&device)?), config)?;
    model
        .print_trainable_parameters(&mut std::io::stdout())
        .map_err(|error| PeftError::from(toktune::weights::WeightsError::io("standard output")(error)))?;

    let words = Tensor::new(&[5u32, 5, 6, 6], &device)?;
    let colours = Tensor::new(&[5u32, 6, 5, 6], &device)?;
    let things = Tensor::new(&[0u32, 1, 2, 0], &device)?;
    let adapters = model.bind(&device)?;
    let vars = adapters.vars();
    let name = |at: usize| format!("variable {at}");
    let sizes = vars.iter().enumerate().map(|(at, var)| (name(at), var.elem_count()));
    let mut optimizer = AdamW::new(AdamWConfig::default(), sizes);
    for step in 0..150 {
        let loss = loss(&model.base().0.forward(&adapters, &words, &colours)?, &things)?;
        let gradients = loss.backward()?;
        optimizer.begin_step();
        for (at, var) in vars.iter().enumerate() {
            let Some(gradient) = gradients.get(var) else { continue };
            let mut values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            optimizer.update(&name(at), &mut values, &gradient.flatten_all()?.to_vec1::<f32>()?, 0.1);
            var.set(&Tensor::from_vec(values, var.shape(), &device)?)?;
        }
        if step % 50 == 0 || step == 149 {
            println!("step {step}: loss {:.4}", loss.to_scalar::<f32>()?);
        }
    }
    model.read_back(&adapters)?;

    // the adapter is PEFT's files; merged, the model needs none
    let folder = std::env::temp_dir().join("toktune-two-embeddings");
    model.save_pretrained(&folder, SaveEmbeddingLayers::No)?;
    println!("saved in {}", folder.display());
    let merged = PeftModel::without_adapter(model.merge_and_unload(true, None)?);
    let logits = merged.base().0.forward(&merged.bind(&device)?, &words, &colours)?;
    println!("merged: {:?}, expected {:?}", logits.argmax(1)?.to_vec1::<u32>()?, things.to_vec1::<u32>()?);
    Ok(())
}
