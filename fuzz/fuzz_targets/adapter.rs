//! An adapter's folder over a small model: `adapter_config.json`, a zero, `adapter_model.safetensors`.

#![no_main]

use toktune::weights::Checkpoint;
use toktune::{AutoModelForCausalLM, Device, PeftModel};
use toktune_fuzz::{folder, model, parts};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some([config, tensors]) = parts(input) else { return };
    let folder = folder(&[("adapter_config.json", config), ("adapter_model.safetensors", tensors)]);
    // an adapter may change its base, so that each gets its own; one that is damaged need not wait for it
    if Checkpoint::open(&folder.path().join("adapter_model.safetensors")).is_err() {
        return;
    }
    let base = AutoModelForCausalLM::from_pretrained(model(), &Device::Cpu).expect("the small model");
    let _ = PeftModel::from_pretrained(base, folder.path());
});
