//! Workers that are threads of one process, each with a model of its own: what tests of several workers run on.

use super::{Workers, WorkersError};
use std::sync::mpsc::{Receiver, Sender, channel};

/// One of several threads that take the same steps.
#[derive(Debug)]
pub struct ThreadWorker {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
}

/// So many workers, one for each thread that is to be started.
pub fn thread_workers(count: usize) -> Vec<ThreadWorker> {
    let mut workers: Vec<ThreadWorker> =
        (0..count).map(|rank| ThreadWorker { rank, to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..count {
        for to in 0..count {
            let (sender, receiver) = channel();
            workers[from].to.push(sender);
            // in the order of the senders
            workers[to].from.push(receiver);
        }
    }
    workers
}

impl Workers for ThreadWorker {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.to.len()
    }

    fn on_this_machine(&self) -> usize {
        self.to.len()
    }

    fn machine(&self) -> String {
        "this machine".to_owned()
    }

    fn send(&mut self, to: usize, message: Vec<u8>) -> Result<(), WorkersError> {
        let ended = || WorkersError::Unreachable { worker: to, reason: "its thread has ended".into() };
        self.to.get(to).and_then(|to| to.send(message).ok()).ok_or_else(ended)
    }

    fn receive(&mut self, from: usize) -> Result<Vec<u8>, WorkersError> {
        let ended = || WorkersError::Unreachable { worker: from, reason: "its thread has ended".into() };
        self.from.get(from).and_then(|from| from.recv().ok()).ok_or_else(ended)
    }
}
