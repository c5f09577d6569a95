//! Which worker computes what, and in which order sums are added: the same order whatever the number of workers.
//!
//! A step's micro-batches lie in lanes, as many as the step may have micro-batches. The sum over a run of lanes is that of its first half and
//! that of its second half, added: a binary tree that depends on nothing but the number of lanes. A worker has lanes that follow each
//! other, and so whole subtrees; what is above them is added by the workers together.

use std::cmp::Reverse;
use std::ops::Range;

/// Lanes of a step, divided among workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lanes {
    pub(super) lanes: usize,
    pub(super) workers: usize,
}

impl Lanes {
    /// The lanes of a worker; there may be none where there are more workers than lanes.
    pub(super) fn of(&self, worker: usize) -> Range<usize> {
        worker * self.lanes / self.workers..(worker + 1) * self.lanes / self.workers
    }

    /// Whose a lane is.
    pub(super) fn owner(&self, lane: usize) -> usize {
        // the last worker whose lanes begin no later: ((w * lanes) / workers <= lane)
        (((lane + 1) * self.workers).div_ceil(self.lanes) - 1).min(self.workers - 1)
    }

    /// Whose all of some lanes are; nobody's alone where several have them.
    pub(super) fn only_owner(&self, lanes: &Range<usize>) -> Option<usize> {
        let owner = self.owner(lanes.start);
        (owner == self.owner(lanes.end - 1)).then_some(owner)
    }

    /// The largest subtrees of a worker, first lanes first.
    pub(super) fn subtrees(&self, worker: usize) -> Vec<Range<usize>> {
        fn gather(node: Range<usize>, own: &Range<usize>, found: &mut Vec<Range<usize>>) {
            if node.start >= own.end || node.end <= own.start {
                return;
            }
            if own.start <= node.start && node.end <= own.end {
                found.push(node);
                return;
            }
            let (left, right) = halves(&node);
            gather(left, own, found);
            gather(right, own, found);
        }
        let mut found = Vec::new();
        gather(0..self.lanes, &self.of(worker), &mut found);
        found
    }
}

/// A node's two halves, of which the first may have a lane more.
pub(super) fn halves(node: &Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = node.start + node.len().div_ceil(2);
    (node.start..middle, middle..node.end)
}

/// What lies in each lane of micro-batches that cost so much: every half of the tree gets about half of the cost that its node has. It
/// follows from the costs alone.
pub(super) fn placed(costs: &[usize], lanes: usize) -> Vec<Option<usize>> {
    fn place(batches: &[usize], costs: &[usize], node: Range<usize>, placed: &mut [Option<usize>]) {
        if node.len() == 1 {
            placed[node.start] = batches.first().copied();
            return;
        }
        let (left, right) = halves(&node);
        let (mut of_left, mut of_right) = ((Vec::new(), 0), (Vec::new(), 0));
        for &batch in batches {
            let goes_left =
                of_right.0.len() == right.len() || (of_left.0.len() < left.len() && of_left.1 <= of_right.1);
            let side = if goes_left { &mut of_left } else { &mut of_right };
            side.0.push(batch);
            side.1 += costs[batch];
        }
        place(&of_left.0, costs, left, placed);
        place(&of_right.0, costs, right, placed);
    }
    let mut placed = vec![None; lanes];
    if lanes > 0 {
        let mut batches: Vec<usize> = (0..costs.len().min(lanes)).collect();
        batches.sort_by_key(|batch| (Reverse(costs[*batch]), *batch));
        place(&batches, costs, 0..lanes, &mut placed);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_one_owner() {
        for workers in 1..=9 {
            for lanes in workers..=40 {
                let of = Lanes { lanes, workers };
                let mut next = 0;
                for worker in 0..workers {
                    let own = of.of(worker);
                    assert_eq!(own.start, next);
                    assert!(!own.is_empty(), "{lanes} lanes of {workers}");
                    own.clone()
                        .for_each(|lane| assert_eq!(of.owner(lane), worker, "{lanes} {workers} {lane}"));
                    let within: Vec<usize> = of.subtrees(worker).into_iter().flatten().collect();
                    assert_eq!(within, own.clone().collect::<Vec<_>>());
                    next = own.end;
                }
                assert_eq!(next, lanes);
            }
        }
        assert_eq!(Lanes { lanes: 6, workers: 4 }.only_owner(&(0..1)), Some(0));
        assert_eq!(Lanes { lanes: 6, workers: 4 }.only_owner(&(0..3)), None);
    }

    #[test]
    fn halves_cost_alike() {
        let costs: Vec<usize> = (0..16).map(|at| 100 + 37 * (at * 7 % 16)).collect();
        let placed = placed(&costs, 16);
        let mut seen: Vec<usize> = placed.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<_>>());
        let cost = |lanes: Range<usize>| -> usize {
            placed[lanes].iter().flatten().map(|batch| costs[*batch]).sum()
        };
        for workers in [2, 4] {
            let whole = cost(0..16) / workers;
            for worker in 0..workers {
                let own = cost(Lanes { lanes: 16, workers }.of(worker));
                assert!(own.abs_diff(whole) * 10 < whole, "{workers} workers: {own} of {whole}");
            }
        }
    }

    #[test]
    fn an_epochs_last_step_leaves_lanes_empty() {
        let placed = placed(&[5, 9, 1], 8);
        let mut seen: Vec<usize> = placed.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!((placed.len(), seen), (8, vec![0, 1, 2]));
        // the dearest alone in its half
        assert_eq!(placed[..4].iter().flatten().count(), 1);
    }
}
