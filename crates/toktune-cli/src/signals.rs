//! Ctrl-C and TERM: the first lets a run end its step and save, the second ends the program at once. USR1 lets a run save a checkpoint and
//! go on.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Signals that ask for an end, each with the exit status of a program that it ends.
const ENDING: [(i32, u8); 2] = [(SIGINT, 130), (SIGTERM, 143)];

/// Whether a signal has come since this was made.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// The last one; 0 for none.
    came: Arc<AtomicUsize>,
    told: Arc<AtomicBool>,
    /// Whether a checkpoint is asked for.
    saves: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to listen, for the rest of the program.
    pub fn listen() -> Self {
        let signals = Signals::default();
        let again = Arc::new(AtomicBool::new(false));
        for (signal, status) in ENDING {
            // registered first, so that the first signal finds the flag down and the second finds it up; where signals cannot
            // be had, they end the program as they always do
            let _ = flag::register_conditional_shutdown(signal, status.into(), again.clone());
            let _ = flag::register(signal, again.clone());
            let _ = flag::register_usize(signal, signals.came.clone(), signal as usize);
        }
        #[cfg(unix)]
        let _ = flag::register(signal_hook::consts::SIGUSR1, signals.saves.clone());
        signals
    }

    /// For a run: whether it is to save a checkpoint, once for every time that it is asked.
    pub fn save_asked(&self) -> bool {
        self.saves.swap(false, Ordering::Relaxed)
    }

    /// The exit status of a program that the signal that came ends; `None` when none came.
    pub fn status(&self) -> Option<u8> {
        let came = self.came.load(Ordering::Relaxed);
        ENDING.iter().find(|(signal, _)| *signal as usize == came).map(|(_, status)| *status)
    }

    /// For a run: whether it is to end.
    pub fn asked(&self) -> ControlFlow<()> {
        match self.status() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    /// As [`status`](Self::status), but once: what is to be said of a signal is said then.
    pub fn first_status(&self) -> Option<u8> {
        self.status().filter(|_| !self.told.swap(true, Ordering::Relaxed))
    }
}
