//! What workers do together: sums in one order, what one knows and all need, questions that any may answer.

use super::lanes::{Lanes, halves, placed};
use super::{Alone, Reader, StepSums, Workers, WorkersError, Writer};
use std::ops::Range;
use std::time::{Duration, Instant};

/// The workers of a run, as one of them sees them.
#[derive(Debug)]
pub(crate) struct Team {
    workers: Box<dyn Workers>,
    /// Time in which this one has waited for messages or sent them.
    waited: Duration,
    /// Bytes that this one has sent.
    sent: u64,
}

impl Default for Team {
    fn default() -> Self {
        Self::new(Box::new(Alone))
    }
}

impl Team {
    pub(crate) fn new(workers: Box<dyn Workers>) -> Self {
        Self { workers, waited: Duration::ZERO, sent: 0 }
    }

    pub(crate) fn count(&self) -> usize {
        self.workers.count()
    }

    pub(crate) fn on_this_machine(&self) -> usize {
        self.workers.on_this_machine().max(1)
    }

    pub(crate) fn machine(&self) -> String {
        self.workers.machine()
    }

    /// Whether this one writes what is written.
    pub(crate) fn leads(&self) -> bool {
        self.workers.rank() == 0
    }

    /// The seconds that each has waited so far, and the bytes that all have sent; nothing of one that is alone.
    ///
    /// # Errors
    /// A worker cannot be reached.
    pub(crate) fn traffic(&mut self) -> Result<(Vec<f64>, u64), WorkersError> {
        if self.count() == 1 {
            return Ok((Vec::new(), 0));
        }
        let mut own = Writer::default();
        own.double(self.waited.as_secs_f64());
        own.number(self.sent as usize);
        let (mut waited, mut sent) = (Vec::new(), 0);
        for (worker, said) in self.gathered(own.finish())?.iter().enumerate() {
            let mut message = Reader::new(worker, said);
            waited.push(message.double()?);
            sent += message.number()? as u64;
        }
        Ok((waited, sent))
    }

    /// Some of `0..all` for this one: those of all workers are all of them, one after the other.
    pub(crate) fn share(&self, all: usize) -> Range<usize> {
        Lanes { lanes: all, workers: self.count() }.of(self.workers.rank())
    }

    /// The sums of a step of micro-batches that cost so much, of at most `lanes`, over all workers. `compute` is called for those of
    /// this one.
    ///
    /// # Errors
    /// A worker cannot be reached; what `compute` gives.
    pub(crate) fn sum<E: From<WorkersError>>(
        &mut self,
        costs: &[usize],
        lanes: usize,
        compute: &mut dyn FnMut(usize) -> Result<StepSums, E>,
    ) -> Result<StepSums, E> {
        let of = Lanes { lanes, workers: self.count() };
        let placed = placed(costs, lanes);
        let mut own = Vec::new();
        for node in of.subtrees(self.workers.rank()) {
            let sums = computed(&node, &placed, compute)?;
            own.push((node, sums));
        }
        let begun = Instant::now();
        let all = self.reduced(of, 0..lanes, &mut own)?;
        if self.count() == 1 {
            return Ok(all.unwrap_or_default());
        }
        let bytes = all.map(|all| {
            let mut message = Writer::default();
            all.write(&mut message);
            message.finish()
        });
        let all = self.told(bytes)?;
        self.waited += begun.elapsed();
        Ok(StepSums::read(&mut Reader::new(0, &all))?)
    }

    /// The sum over a node of the tree, for the worker that has its first lane.
    fn reduced(
        &mut self,
        of: Lanes,
        node: Range<usize>,
        own: &mut Vec<(Range<usize>, StepSums)>,
    ) -> Result<Option<StepSums>, WorkersError> {
        if let Some(at) = own.iter().position(|(subtree, _)| *subtree == node) {
            return Ok(Some(own.swap_remove(at).1));
        }
        if of.only_owner(&node).is_some() {
            return Ok(None);
        }
        let (left, right) = halves(&node);
        let (to, from) = (of.owner(left.start), of.owner(right.start));
        let of_left = self.reduced(of, left, own)?;
        let of_right = self.reduced(of, right, own)?;
        let rank = self.workers.rank();
        let of_right = match (rank == to, rank == from) {
            (true, true) => of_right,
            (true, false) => {
                let bytes = self.workers.receive(from)?;
                Some(StepSums::read(&mut Reader::new(from, &bytes))?)
            }
            (false, true) => {
                let mut message = Writer::default();
                of_right.unwrap_or_default().write(&mut message);
                self.send(to, message.finish())?;
                None
            }
            (false, false) => None,
        };
        Ok(of_left.zip(of_right).map(|(mut left, right)| {
            left.add(right);
            left
        }))
    }

    /// What the first worker says, for all. The others have nothing to say.
    ///
    /// # Errors
    /// A worker cannot be reached.
    pub(crate) fn told(&mut self, of_first: Option<Vec<u8>>) -> Result<Vec<u8>, WorkersError> {
        let (rank, count) = (self.workers.rank(), self.count());
        // a binomial tree: each step doubles those who know
        let mut step = 1;
        while step < count && rank & step == 0 {
            step <<= 1;
        }
        let message = match rank {
            0 => of_first.unwrap_or_default(),
            _ => self.workers.receive(rank - step)?,
        };
        step >>= 1;
        while step > 0 {
            if rank + step < count {
                self.send(rank + step, message.clone())?;
            }
            step >>= 1;
        }
        Ok(message)
    }

    /// What each worker says, for all, in their order.
    ///
    /// # Errors
    /// A worker cannot be reached.
    pub(crate) fn gathered(&mut self, own: Vec<u8>) -> Result<Vec<Vec<u8>>, WorkersError> {
        if self.count() == 1 {
            return Ok(vec![own]);
        }
        let begun = Instant::now();
        let (rank, count) = (self.workers.rank(), self.count());
        let mut known = vec![(rank, own)];
        let mut step = 1;
        while step < count {
            if rank & step != 0 {
                let mut message = Writer::default();
                for (worker, said) in &known {
                    message.number(*worker);
                    message.bytes(said);
                }
                self.send(rank - step, message.finish())?;
                break;
            }
            if rank + step < count {
                let bytes = self.workers.receive(rank + step)?;
                known.extend(said(rank + step, &bytes)?);
            }
            step <<= 1;
        }
        let mut message = Writer::default();
        for (worker, said) in &known {
            message.number(*worker);
            message.bytes(said);
        }
        let all = self.told((rank == 0).then(|| message.finish()))?;
        let mut all = said(0, &all)?;
        all.sort_by_key(|(worker, _)| *worker);
        self.waited += begun.elapsed();
        match all.len() == count {
            true => Ok(all.into_iter().map(|(_, said)| said).collect()),
            false => Err(WorkersError::Message { from: 0 }),
        }
    }

    /// Answers that hold for all where any worker gives them.
    ///
    /// # Errors
    /// A worker cannot be reached.
    pub(crate) fn any<const N: usize>(&mut self, own: [bool; N]) -> Result<[bool; N], WorkersError> {
        let said = self.gathered(own.map(u8::from).to_vec())?;
        let mut all = [false; N];
        for said in said {
            all.iter_mut().zip(said).for_each(|(all, one)| *all |= one != 0);
        }
        Ok(all)
    }

    /// A number of the first worker's, for all, or that it has none.
    ///
    /// # Errors
    /// A worker cannot be reached.
    pub(crate) fn told_number(&mut self, of_first: Option<f64>) -> Result<Option<f64>, WorkersError> {
        let mut message = Writer::default();
        if let Some(number) = of_first {
            message.double(number);
        }
        let leads = self.leads();
        let told = self.told(leads.then(|| message.finish()))?;
        let mut reader = Reader::new(0, &told);
        if reader.is_empty() { Ok(None) } else { reader.double().map(Some) }
    }

    fn send(&mut self, to: usize, message: Vec<u8>) -> Result<(), WorkersError> {
        self.sent += message.len() as u64;
        self.workers.send(to, message)
    }
}

/// The sum over lanes of one's own: each node's is that of its halves.
fn computed<E>(
    node: &Range<usize>,
    placed: &[Option<usize>],
    compute: &mut dyn FnMut(usize) -> Result<StepSums, E>,
) -> Result<StepSums, E> {
    if node.len() == 1 {
        return placed[node.start].map_or_else(|| Ok(StepSums::default()), compute);
    }
    let (left, right) = halves(node);
    let mut sums = computed(&left, placed, compute)?;
    sums.add(computed(&right, placed, compute)?);
    Ok(sums)
}

/// What several workers said, by their numbers.
fn said(from: usize, message: &[u8]) -> Result<Vec<(usize, Vec<u8>)>, WorkersError> {
    let mut reader = Reader::new(from, message);
    let mut all = Vec::new();
    while !reader.is_empty() {
        all.push((reader.number()?, reader.bytes()?.to_vec()));
    }
    Ok(all)
}
