//! Timing of cases in rounds, each beside the peak of the same moment, and the table.

use crate::peak::{self, Memory};
use std::time::{Duration, Instant};
use toktune_kernels::{Isa, Precision};

/// A case is called again until this much time has passed, each round.
const ENOUGH: Duration = Duration::from_millis(40);

/// What a call does that the machine has a limit for.
#[derive(Clone, Copy)]
pub enum Work {
    /// Floating-point operations, of products in this precision.
    Operations(f64, Precision),
    /// Bytes read and written.
    Bytes(f64),
    /// Bytes read, and next to nothing written.
    Read(f64),
}

/// A kernel call to be timed.
pub struct Case {
    /// What distinguishes it in its group.
    pub name: String,
    /// What a call does.
    pub work: Work,
    /// The call.
    pub run: Box<dyn FnMut()>,
}

/// What a round found: seconds a call, billions a second, share of the peak around it.
#[derive(Clone, Copy)]
struct Found {
    seconds: f64,
    rate: f64,
    share: f64,
}

impl Case {
    fn measure(&mut self, isa: Isa, memory: &mut Memory) -> Found {
        let before = self.peak(isa, memory);
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < ENOUGH {
            (self.run)();
            calls += 1;
        }
        let seconds = start.elapsed().as_secs_f64() / f64::from(calls);
        let peak = (before + self.peak(isa, memory)) / 2.0;
        let (Work::Operations(amount, _) | Work::Bytes(amount) | Work::Read(amount)) = self.work;
        let rate = amount / seconds / 1e9;
        Found { seconds, rate, share: rate / peak }
    }

    /// The machine's limit for this work, at this moment.
    fn peak(&self, isa: Isa, memory: &mut Memory) -> f64 {
        match self.work {
            Work::Operations(_, precision) => peak::gflops(isa, precision, true),
            Work::Bytes(_) => memory.gigabytes(),
            Work::Read(_) => memory.gigabytes_read(),
        }
    }

    fn unit(&self) -> &'static str {
        match self.work {
            Work::Operations(..) => "GFLOP/s",
            Work::Bytes(_) | Work::Read(_) => "GB/s",
        }
    }
}

fn sorted(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let numbers = sorted(numbers);
    (numbers[(numbers.len() - 1) / 2] + numbers[numbers.len() / 2]) / 2.0
}

/// Times the cases in turn, round after round, and prints a line for each. Without cases, prints nothing.
pub fn print_table(isa: Isa, title: &str, cases: &mut [Case], rounds: usize) {
    let Some(widest) = cases.iter().map(|case| case.name.len()).max() else { return };
    println!("\n## {title}\n");
    let unit = cases[0].unit();
    println!("| {:widest$} | ms a call | {unit:>8} | lowest to highest | of peak |", "");
    println!("| {:-<widest$} | --------: | -------: | ----------------: | ------: |", "");
    let mut memory = Memory::new();
    for case in cases.iter_mut() {
        (case.run)(); // grows scratch buffers, touches pages
    }
    let mut found = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for (case, found) in cases.iter_mut().zip(&mut found) {
            found.push(case.measure(isa, &mut memory));
        }
    }
    for (case, found) in cases.iter().zip(&found) {
        let rates = sorted(found.iter().map(|f| f.rate));
        println!(
            "| {:widest$} | {:9.3} | {:8.1} | {:>17} | {:5.0} % |",
            case.name,
            median(found.iter().map(|f| f.seconds)) * 1e3,
            median(rates.iter().copied()),
            format!("{:.1} to {:.1}", rates[0], rates[rates.len() - 1]),
            median(found.iter().map(|f| f.share)) * 100.0,
        );
    }
}

/// The limits of the machine, and how the tables are meant.
pub fn print_machine(isa: Isa, rounds: usize) {
    let threads = rayon::current_num_threads();
    let repeat = |of: &mut dyn FnMut() -> f64| median((0..rounds.max(5)).map(|_| of()));
    let print = |name: &str, precision| {
        let one = repeat(&mut || peak::gflops(isa, precision, false));
        let all = repeat(&mut || peak::gflops(isa, precision, true));
        println!("| {name:6} | {one:7.1} GFLOP/s | {all:7.1} GFLOP/s |");
    };
    println!("Instruction set {}, {threads} threads. Medians of {rounds} rounds.\n", isa.name());
    println!(
        "| peak   |      one thread |     all threads |\n| ------ | --------------: | --------------: |"
    );
    print("f32", Precision::F32);
    if isa.has_bf16() {
        print("bf16", Precision::Bf16);
    }
    let mut memory = Memory::new();
    println!("| copied |                 | {:10.1} GB/s |", repeat(&mut || memory.gigabytes()));
    println!("| read   |                 | {:10.1} GB/s |", repeat(&mut || memory.gigabytes_read()));
    println!(
        "\nOf peak: of all threads' multiply-adds in registers, in the precision of the products{}; for norms,\n\
         of copying memory, and for products of few rows of reading it (more than 100 % when a cache holds it). It is measured again before and after every\n\
         timing. Operations are those that the result needs from what is given: what a kernel computes twice counts\n\
         once, and what it computes and masks away not at all.",
        if isa.has_bf16() { "" } else { "\n(this set has no bf16 instructions: bf16 runs as f32)" }
    );
}
