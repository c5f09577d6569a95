//! Threads that wait for work without falling asleep.
//!
//! A token that is generated is some hundred products of a few microseconds each. A thread of the pool that found nothing to
//! do between two of them would go to sleep, and waking it takes longer than the product.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

thread_local! {
    /// Whether this thread is inside [`awake`]: what it waits for there must not wait for others.
    static LEADS: Cell<bool> = const { Cell::new(false) };
}

/// Says on being dropped, in a panic too, that the others may rest.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        LEADS.set(false);
    }
}

/// Calls `work` on a thread of the current pool, while the others look for parts of it without pause.
pub(super) fn awake<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        // inside another call its threads are awake already
        if LEADS.replace(true) {
            return work();
        }
        let own = Done(&done);
        let others = &done;
        scope.spawn_broadcast(move |_, _| wait_for(others));
        let result = work();
        drop(own);
        result
    })
}

/// How long a thread that finds nothing to do stays awake: many products, and not so long that anybody would notice who waits for
/// what lies below on its stack.
const PATIENCE: Duration = Duration::from_micros(500);

/// Runs what there is to run until `done`, or until there has been nothing for [`PATIENCE`]. It must come to an end by itself: a
/// thread may be called to this while it waits inside other work, on which `done` may depend. A thread that leads work of
/// its own returns at once.
fn wait_for(done: &AtomicBool) {
    let mut busy = Instant::now();
    while !LEADS.get() && !done.load(Ordering::Acquire) && busy.elapsed() < PATIENCE {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            busy = Instant::now();
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    fn sum(of: usize) -> usize {
        (0..of).into_par_iter().with_max_len(1).sum()
    }

    #[test]
    fn work_gives_what_it_gives_elsewhere() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                for of in [0, 1, 300] {
                    assert_eq!(awake(|| (sum(of), awake(|| sum(of)))), (sum(of), sum(of)));
                }
            });
        }
    }

    #[test]
    fn several_leaders_do_not_wait_for_each_other() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..400 {
                        pool.install(|| {
                            awake(|| assert_eq!((0..5).map(|_| sum(40)).sum::<usize>(), 5 * 780))
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_lets_the_others_rest() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.install(|| awake(|| panic!("on purpose")));
        }));
        assert!(panicked.is_err());
        assert_eq!(pool.install(|| awake(|| sum(10))), 45);
    }
}
