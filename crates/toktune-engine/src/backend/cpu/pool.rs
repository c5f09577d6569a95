//! Buffers that are used again: a pass over a batch needs the same few sizes for every block.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The buffers that are free. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<f32>>>>);

/// Some floats in memory; those that were taken from a pool go back to it.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
    home: Option<Pool>,
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        // whoever panicked held no buffer half changed
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` floats of arbitrary content.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let mut free = self.free();
        // the smallest that is large enough; else the largest grows, so that there are no more than are in use at once
        let fitting = free.iter().enumerate().filter(|(_, b)| b.len() >= len).min_by_key(|(_, b)| b.len());
        let at = fitting.or_else(|| free.iter().enumerate().max_by_key(|(_, b)| b.len())).map(|(at, _)| at);
        let mut data = at.map_or_else(Vec::new, |at| free.swap_remove(at));
        drop(free);
        if data.len() < len {
            data = vec![0.0; len];
        }
        Buffer { data, len, home: Some(self.clone()) }
    }

    /// Frees what is not in use.
    pub(super) fn release(&self) {
        self.free().clear();
    }
}

impl From<Vec<f32>> for Buffer {
    /// Floats that are freed when they are dropped.
    fn from(data: Vec<f32>) -> Self {
        Self { len: data.len(), data, home: None }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.free().push(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_the_best_fit_is_taken() {
        let pool = Pool::default();
        let (small, large) = (pool.take(10), pool.take(100));
        let (at_small, at_large) = (small.as_ptr(), large.as_ptr());
        drop((small, large));
        let again = pool.take(7);
        assert_eq!((again.as_ptr(), again.len()), (at_small, 7));
        assert_eq!(pool.take(8).as_ptr(), at_large);
        drop(again);
        assert_eq!(pool.take(200).len(), 200);
        assert_eq!(pool.free().len(), 2, "the larger one was grown, no third made");
        drop(Buffer::from(vec![1.0; 3]));
        assert_eq!(pool.free().len(), 2, "what was not taken from here does not come back");
        pool.release();
        assert!(pool.free().is_empty());
    }
}
