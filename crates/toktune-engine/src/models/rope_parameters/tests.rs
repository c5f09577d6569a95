//! Against transformers 5.23: `ROPE_INIT_FUNCTIONS[rope_type](config, "cpu", seq_len=length)` with
//! `LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=256,
//! rope_parameters={"rope_theta": 10000.0, ...})`.

use super::*;
use crate::error::Result;
use crate::models::config::ModelConfig;
use serde_json::{Value, json};

fn config(value: Value) -> ModelConfig {
    let Value::Object(object) = value else { panic!("an object") };
    ModelConfig::from_object("config.json", object)
}

fn read_in(whole: Value, section: Value) -> Result<RopeSpec> {
    RopeSpec::read(&config(whole), Some(&config(section)), Some(10_000.0), 16)
}

fn read(section: Value) -> Result<RopeSpec> {
    read_in(json!({"max_position_embeddings": 256}), section)
}

/// The section with some members more.
fn with(section: &Value, more: Value) -> Value {
    let mut object = section.as_object().expect("an object").clone();
    object.extend(more.as_object().expect("an object").clone());
    object.into()
}

fn assert_frequencies(spec: &RopeSpec, length: usize, values: &[f64], scale: f64) {
    let found = spec.frequencies(length);
    assert_eq!(found.values.len(), values.len());
    for (found, expected) in found.values.iter().zip(values) {
        assert!((*found as f64 - expected).abs() <= 1e-6 * expected, "{spec:?}: {found}, not {expected}");
    }
    assert!((found.scale as f64 - scale).abs() < 1e-6, "{spec:?}: {}, not {scale}", found.scale);
}

#[test]
fn llama3_keeps_high_divides_low_and_blends_between() {
    let plain = RopeSpec { theta: 500.0, dim: 16, variant: RopeVariant::Default, reversed: false }
        .frequencies(0)
        .values;
    let section = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let scaled =
        RopeSpec { theta: 500.0, ..read(section.clone()).expect("a known type") }.frequencies(0).values;
    let ratio: Vec<f32> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
    assert_eq!(ratio[0], 1.0);
    assert_eq!(ratio[7], 8.0);
    assert!(ratio.iter().any(|r| *r > 1.0 && *r < 8.0), "{ratio:?}");
    assert!(ratio.is_sorted());
    let partial = read(with(&section, json!({"partial_rotary_factor": 0.75}))).expect("a part of a head");
    let expected = [1.0, 0.10198934, 0.0058019855, 0.00125, 0.00026930429, 5.8019868e-05];
    assert_frequencies(&partial, 0, &expected, 1.0);
}

#[test]
fn dynamic_grows_the_base_with_the_length() {
    let spec = read(json!({"rope_type": "dynamic", "factor": 2.0})).expect("a known type");
    assert!(spec.depends_on_length());
    let plain = [1.0, 0.31622776, 0.1, 0.031622779, 0.0099999998, 0.0031622779, 0.001, 0.00031622779];
    assert_frequencies(&spec, 0, &plain, 1.0);
    assert_frequencies(&spec, 256, &plain, 1.0);
    let longer =
        [1.0, 0.30315784, 0.09190467, 0.027861621, 0.008446468, 0.002560613, 0.00077626988, 0.00023533229];
    assert_frequencies(&spec, 300, &longer, 1.0);
    let spec = read(json!({"type": "dynamic", "factor": 4})).expect("the old spelling");
    let longest = [
        1.0,
        0.17062034,
        0.029111298,
        0.0049669794,
        0.00084746769,
        0.00014459522,
        2.4670884e-05,
        4.2093543e-06,
    ];
    assert_frequencies(&spec, 5000, &longest, 1.0);
}

#[test]
fn yarn_is_that_of_transformers() {
    let section = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let plain = [
        1.0,
        0.23717082,
        0.049999997,
        0.0079056947,
        0.0024999999,
        0.00079056947,
        0.00025000001,
        7.9056947e-05,
    ];
    let given = json!({"attention_factor": 1.25, "beta_fast": 16, "beta_slow": 2});
    let mscale = json!({"mscale": 0.8, "mscale_all_dim": 1.2, "truncate": false});
    let cases = [
        (json!({}), plain, 1.138629436111989),
        // 256 / 64
        (json!({"factor": null, "beta_fast": 0}), plain, 1.138629436111989),
        (
            given,
            [1.0, 0.19764236, 0.025, 0.0079056947, 0.0024999999, 0.00079056947, 0.00025000001, 7.9056947e-05],
            1.25,
        ),
        (
            mscale,
            [
                1.0,
                0.19858353,
                0.02559525,
                0.0079056947,
                0.0024999999,
                0.00079056947,
                0.00025000001,
                7.9056947e-05,
            ],
            0.9524572200808673,
        ),
        // one of the two alone changes nothing
        (
            json!({"mscale": 0.707, "factor": 40.0}),
            [
                1.0,
                0.21345372,
                0.034999996,
                0.00079056947,
                0.00025000001,
                7.9056947e-05,
                2.4999999e-05,
                7.9056945e-06,
            ],
            1.3688879454113936,
        ),
        (
            json!({"original_max_position_embeddings": 4096, "factor": 16.0}),
            [1.0, 0.31622776, 0.1, 0.024211189, 0.0053125001, 0.00093880121, 6.2500003e-05, 1.9764237e-05],
            1.2772588722239782,
        ),
    ];
    for (more, values, scale) in cases {
        let spec = read(with(&section, more)).expect("a known type");
        assert!(!spec.depends_on_length());
        assert_frequencies(&spec, 0, &values, scale);
    }
    let partial = read(with(&section, json!({"partial_rotary_factor": 0.5}))).expect("half a head");
    assert_frequencies(&partial, 0, &[1.0, 0.0625, 0.0024999999, 0.00025000001], 1.138629436111989);
}

#[test]
fn longrope_has_two_sets_of_divisors() {
    let section = json!({"rope_type": "longrope", "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
        "long_factor": [1.0, 1.5, 2, 4, 8, 12, 16, 20], "original_max_position_embeddings": 64});
    let short =
        [1.0, 0.30116931, 0.090909094, 0.026352312, 0.0076923077, 0.0022587699, 0.00066666666, 0.00019764237];
    let long =
        [1.0, 0.2108185, 0.050000001, 0.0079056947, 0.00125, 0.00026352316, 6.2500003e-05, 1.5811389e-05];
    let spec = read(section.clone()).expect("a known type");
    assert!(spec.depends_on_length());
    let scale = 1.1547005383792517;
    for (length, values) in [(0, &short), (64, &short), (65, &long)] {
        assert_frequencies(&spec, length, values, scale);
    }
    for (more, scale) in [
        (json!({"factor": 8.0}), 1.224744871391589),
        (json!({"attention_factor": 1.19}), 1.19),
        (json!({"factor": 1.0}), 1.0),
    ] {
        assert_frequencies(&read(with(&section, more)).expect("a known type"), 65, &long, scale);
    }
    let half = json!({"partial_rotary_factor": 0.5, "short_factor": [1, 1.1, 1.2, 1.3], "long_factor": [2, 3, 4, 5]});
    let half = read(with(&section, half)).expect("half a head");
    assert_frequencies(&half, 65, &[0.5, 0.033333335, 0.0024999999, 0.00019999999], scale);
    // Phi 3 before transformers 5: another name, and the pretraining's positions beside the section
    let old =
        with(&section, json!({"rope_type": null, "type": "su", "original_max_position_embeddings": null}));
    let old = read_in(json!({"max_position_embeddings": 256, "original_max_position_embeddings": 64}), old);
    assert_eq!(old.expect("the old form"), spec);
}

#[test]
fn both_spellings_and_the_given_theta_are_read() {
    assert_eq!(
        read(json!({"type": "linear", "factor": 2})).expect("old spelling").variant,
        RopeVariant::Linear { factor: 2.0 }
    );
    assert_eq!(read(json!({"rope_type": "default"})).expect("plain").theta, 10_000.0);
    assert_eq!(read(json!({"rope_theta": 7.0})).expect("plain").theta, 7.0);
    let part = json!({"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.4});
    assert_frequencies(&read(part).expect("a part"), 0, &[0.25, 0.011603971, 0.00053860858], 1.0);
    let beside = json!({"partial_rotary_factor": 0.25});
    let spec = RopeSpec::read(&config(beside.clone()), None, None, 16).expect("without a section");
    assert_eq!((spec.theta, spec.dim), (10_000.0, 4));
    assert_eq!(read_in(beside, json!({"partial_rotary_factor": 0.5})).expect("both").dim, 8);
}

#[test]
fn unsound_parameters_are_refused_by_name() {
    let long = json!({"rope_type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [1]});
    let cases = [
        (
            json!({"rope_type": "proportional"}),
            "rope_type: 'proportional' is not supported; supported: default",
        ),
        (json!({"rope_type": "linear"}), "factor: missing"),
        (json!({"rope_type": "linear", "factor": 0}), "factor: expected more than 0, found 0"),
        (json!({"rope_type": "dynamic", "factor": 0.5}), "factor: expected at least 1, found 0.5"),
        (json!({"rope_type": "dynamic", "factor": 2, "partial_rotary_factor": 0.125}), "more than 2 rotated"),
        (json!({"rope_type": "yarn", "rope_theta": 1}), "rope_theta: yarn needs more than 1"),
        (json!({"rope_type": "yarn", "beta_fast": -1}), "beta_fast: expected more than 0, found -1"),
        (json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor: expected more than 0 and at most 1"),
        (
            long.clone(),
            "long_factor: expected a list of 8 positive numbers, one a pair of rotated entries, found 1",
        ),
        (with(&long, json!({"long_factor": 3})), "long_factor: expected a list of 8 positive numbers"),
        (with(&long, json!({"short_factor": [1, 1, 1, 0, 1, 1, 1, 1]})), "short_factor: expected"),
        (with(&long, json!({"short_factor": null})), "short_factor: missing; expected a list of 8"),
        (
            with(
                &long,
                json!({"original_max_position_embeddings": 1, "long_factor": [1, 1, 1, 1, 1, 1, 1, 1]}),
            ),
            "attention_factor: expected a finite number, found inf",
        ),
    ];
    for (section, expected) in cases {
        let message = read(section).expect_err("unsound").to_string();
        assert!(message.starts_with("config.json: ") && message.contains(expected), "{message}");
    }
    let message = read_in(json!({}), json!({"rope_type": "dynamic", "factor": 2})).expect_err("no positions");
    assert!(message.to_string().contains("max_position_embeddings: missing"), "{message}");
}
