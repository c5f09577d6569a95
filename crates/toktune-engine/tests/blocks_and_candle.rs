//! Our block decoders against candle's, on blocks that candle quantised.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};
use toktune_kernels::{Isa, WeightType, blocks};

#[test]
fn every_block_type_decodes_as_candle_does() -> Result<()> {
    let types = [
        (WeightType::Q4_0, GgmlDType::Q4_0),
        (WeightType::Q4_1, GgmlDType::Q4_1),
        (WeightType::Q5_0, GgmlDType::Q5_0),
        (WeightType::Q5_1, GgmlDType::Q5_1),
        (WeightType::Q8_0, GgmlDType::Q8_0),
        (WeightType::Q4K, GgmlDType::Q4K),
        (WeightType::Q5K, GgmlDType::Q5K),
        (WeightType::Q6K, GgmlDType::Q6K),
    ];
    // Smooth, with a drifting mean and size, so that scales and minima differ from group to group.
    let values: Vec<f32> = (0..8 * 768)
        .map(|i| i as f32)
        .map(|i| (i * 0.37).sin() * (1.0 + i / 900.0) + (i / 200.0).cos())
        .collect();
    let original = Tensor::from_vec(values.clone(), (8, 768), &Device::Cpu)?;
    for (ours, theirs) in types {
        let quantized = QTensor::quantize(&original, theirs)?;
        let expected = quantized.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let mut got = vec![f32::NAN; values.len()];
        blocks::decode(Isa::best(), ours, &quantized.data()?, &mut got);
        assert_eq!(got, expected, "{ours}");
        let worst = got.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1.0, "{ours}: the blocks are not what was quantised, off by {worst}");
    }
    Ok(())
}
