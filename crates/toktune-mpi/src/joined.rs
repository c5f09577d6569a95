//! Bytes from one process of MPI's to another.

use crate::{Launch, MpiError, Process};
use mpi::Threading;
use mpi::collective::CommunicatorCollectives;
use mpi::environment::{self, Universe};
use mpi::point_to_point::{Destination, MatchedReceiveVec, Source};
use mpi::topology::{Communicator, SimpleCommunicator};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use toktune::workers::{Workers, WorkersError};

/// MPI counts in 32 bits: a longer message goes in parts of this many bytes, the last one of which is shorter.
const PART: usize = 1 << 30;

/// For so long a message is waited for without giving the processor away.
const EAGER: Duration = Duration::from_micros(100);

/// Then it is looked for this often. A step takes hundreds of times as long.
const PAUSE: Duration = Duration::from_micros(200);

/// MPI, from joining to leaving.
static UNIVERSE: Mutex<Option<Joined>> = Mutex::new(None);

struct Joined(Universe);

// SAFETY: MPI was started for calls of any thread, one at a time (`Threading::Serialized`), and the mutex lets one at a time have it.
unsafe impl Send for Joined {}

/// The processes of a run.
#[derive(Debug)]
pub(crate) struct MpiWorkers(pub(crate) Process);

pub(crate) fn join(_: &Launch) -> Result<Process, MpiError> {
    let mut universe = UNIVERSE.lock().unwrap_or_else(PoisonError::into_inner);
    if universe.is_none() {
        let started = environment::initialize_with_threading(Threading::Serialized);
        let (started, threading) =
            started.ok_or(MpiError::NotStarted { reason: "it was started in this process before" })?;
        if threading < Threading::Serialized {
            let reason = "it takes no calls of several threads, one at a time (MPI_THREAD_SERIALIZED)";
            return Err(MpiError::NotStarted { reason });
        }
        *universe = Some(Joined(started));
    }
    let world = SimpleCommunicator::world();
    let number = |of: i32| usize::try_from(of).unwrap_or(0);
    let (rank, count) = (number(world.rank()), number(world.size()));
    let on_this_machine = number(world.split_shared(world.rank()).size());
    let machine = environment::processor_name().unwrap_or_else(|_| "an unnamed machine".to_owned());
    Ok(Process { rank, count, on_this_machine, machine })
}

pub(crate) fn leave() {
    let joined = UNIVERSE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Joined(universe)) = joined else { return };
    // the others come to their ends, the first one when it has written what is written
    meet();
    drop(universe);
}

/// Waits for all, without the processor: waiting in the library takes a whole one.
pub(crate) fn meet() {
    let mut all_there = SimpleCommunicator::world().immediate_barrier();
    while let Err(waiting) = all_there.test() {
        all_there = waiting;
        std::thread::sleep(PAUSE);
    }
}

/// What all fail at, the first process tells and saves what is left of the run: the others give it time.
const GRACE: Duration = Duration::from_secs(3);

pub(crate) fn abort(status: u8) {
    if UNIVERSE.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
        let world = SimpleCommunicator::world();
        if world.rank() > 0 {
            std::thread::sleep(GRACE);
        }
        world.abort(status.into());
    }
}

impl Workers for MpiWorkers {
    fn rank(&self) -> usize {
        self.0.rank
    }

    fn count(&self) -> usize {
        self.0.count
    }

    fn on_this_machine(&self) -> usize {
        self.0.on_this_machine
    }

    fn machine(&self) -> String {
        self.0.machine.clone()
    }

    fn send(&mut self, to: usize, message: Vec<u8>) -> Result<(), WorkersError> {
        let world = SimpleCommunicator::world();
        let to = world.process_at_rank(rank_of(to)?);
        for part in message.chunks(PART) {
            to.send(part);
        }
        if message.len().is_multiple_of(PART) {
            // what says that it ends
            to.send(&[0u8; 0][..]);
        }
        Ok(())
    }

    fn receive(&mut self, from: usize) -> Result<Vec<u8>, WorkersError> {
        let world = SimpleCommunicator::world();
        let source = world.process_at_rank(rank_of(from)?);
        let mut whole = Vec::new();
        loop {
            let begun = Instant::now();
            // waiting in the library takes a whole processor, which others on this machine compute with
            let found = loop {
                if let Some(found) = source.immediate_matched_probe() {
                    break found;
                }
                if begun.elapsed() > EAGER {
                    std::thread::sleep(PAUSE);
                }
            };
            let (part, _) = found.matched_receive_vec::<u8>();
            let is_last = part.len() < PART;
            match whole.is_empty() {
                true => whole = part,
                false => whole.extend(part),
            }
            if is_last {
                return Ok(whole);
            }
        }
    }
}

/// A process's number as MPI has it.
fn rank_of(worker: usize) -> Result<i32, WorkersError> {
    let unknown = |_| WorkersError::Unreachable { worker, reason: "MPI knows no such number".into() };
    i32::try_from(worker).map_err(unknown)
}
