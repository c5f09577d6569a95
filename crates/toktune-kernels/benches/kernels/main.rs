//! How fast the kernels are, as a share of what the machine can do.
//!
//! ```text
//! cargo bench -p toktune-kernels -- [--rounds N] [WORD...]     only groups whose title or cases have one of the words
//! TOKTUNE_ISA=avx2 RAYON_NUM_THREADS=1 cargo bench -p toktune-kernels -- smollm2 mlp
//! ```
//!
//! A timer alone says nothing on a shared machine whose clock changes, so the peak is measured again before
//! and after every timing of a kernel, and the share of the peak is taken timing by timing. This is why it has its own
//! small table instead of a benchmark harness.

mod cases;
mod measure;
mod peak;

use measure::Case;
use toktune_kernels::Isa;

/// What the command line asks for.
struct Asked {
    rounds: usize,
    words: Vec<String>,
}

impl Asked {
    /// `None` unless cargo runs this as a benchmark: `cargo test --all-targets` starts it too, and is not to wait for it.
    fn from_args() -> Option<Self> {
        let mut asked = Self { rounds: 5, words: Vec::new() };
        let mut is_bench = false;
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => is_bench = true,
                "--rounds" => {
                    let rounds = args.next().and_then(|n| n.parse().ok());
                    asked.rounds = rounds.filter(|n| *n > 0).expect("--rounds takes a number above 0");
                }
                word => asked.words.push(word.to_lowercase()),
            }
        }
        is_bench.then_some(asked)
    }

    fn wants(&self, group: &str, case: &Case) -> bool {
        let text = format!("{group} {}", case.name).to_lowercase();
        self.words.is_empty() || self.words.iter().any(|word| text.contains(word))
    }
}

fn main() {
    let Some(asked) = Asked::from_args() else {
        println!("kernels are timed by `cargo bench -p toktune-kernels`");
        return;
    };
    let isa = Isa::from_environment().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(2);
    });
    measure::print_machine(isa, asked.rounds);
    let time = |title: &str, mut cases: Vec<Case>| {
        cases.retain(|case| asked.wants(title, case));
        measure::print_table(isa, title, &mut cases, asked.rounds);
    };
    for (title, build) in cases::SHAPES {
        time(title, build(isa));
    }
    for model in cases::MODELS {
        for (title, build) in cases::GROUPS {
            time(&format!("{}: {title}", model.name), build(isa, &model));
        }
    }
}
