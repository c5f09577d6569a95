//! What several workers come to, for every number of them.

use super::*;
use crate::peft::Gradient;
use std::thread;

/// What each of so many workers makes of the same work.
fn each<R: Send>(count: usize, work: impl Fn(&mut Team) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let started: Vec<_> = thread_workers(count)
            .into_iter()
            .map(|worker| scope.spawn(move || work(&mut Team::new(Box::new(worker)))))
            .collect();
        started.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    })
}

/// Sums whose bits depend on the order in which they are added.
fn of(micro_step: usize) -> StepSums {
    let values = (0..5).map(|at| 1.0 / (3 + at + 7 * micro_step) as f32).collect();
    StepSums {
        gradients: vec![Gradient { name: "rows".into(), values }],
        loss: 1.0 / (1 + micro_step) as f64,
        weight: 0.1 * micro_step as f64,
        labels: micro_step,
        tokens: 1,
        preference: None,
    }
}

#[test]
fn sums_have_the_same_bits_for_every_number_of_workers() {
    for (lanes, batches) in [(1, 1), (4, 4), (6, 6), (7, 3), (16, 16), (33, 20)] {
        let costs: Vec<usize> = (0..batches).map(|at| 10 + at * 7 % 5).collect();
        let sum = |team: &mut Team| team.sum(&costs, lanes, &mut |at| Ok::<_, WorkersError>(of(at)));
        let alone = sum(&mut Team::default()).expect("a sum");
        assert_eq!((alone.labels, alone.tokens), ((0..batches).sum::<usize>(), batches));
        for count in 2..=lanes.min(9) {
            for found in each(count, sum) {
                assert_eq!(found.expect("a sum"), alone, "{count} workers, {lanes} lanes");
            }
        }
    }
}

#[test]
fn all_know_what_one_says() {
    for count in 1..=9 {
        let said = |team: &mut Team| {
            let own = team.share(20);
            let all = team.gathered(vec![own.start as u8; 3]).expect("all answer");
            let told = team.told(team.leads().then(|| vec![1, 2])).expect("the first says it");
            let any = team.any([own.end == 20, false]).expect("all answer");
            let number = team.told_number(team.leads().then_some(0.1)).expect("the first says it");
            let none = team.told_number(None).expect("the first says it");
            (all, told, any, number, none)
        };
        for (all, told, any, number, none) in each(count, said) {
            assert_eq!(all, (0..count).map(|of| vec![(of * 20 / count) as u8; 3]).collect::<Vec<_>>());
            assert_eq!((told, any, number, none), (vec![1, 2], [true, false], Some(0.1), None));
        }
    }
}

#[test]
fn a_worker_that_ends_is_named() {
    let mut workers = thread_workers(2);
    drop(workers.pop());
    let mut team = Team::new(Box::new(workers.remove(0)));
    let error = team.gathered(Vec::new()).expect_err("nobody there").to_string();
    assert_eq!(error, "process 1 cannot be reached: its thread has ended");
    assert!(Alone.send(1, Vec::new()).is_err() && Alone.receive(1).is_err());
}
