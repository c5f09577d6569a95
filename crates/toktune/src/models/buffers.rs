//! Buffers that are used again: a pass over a batch needs the same few sizes for every block.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// The buffers that are free. Clones share them; dropping the last one frees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Rc<RefCell<Vec<Vec<f32>>>>);

/// `len` floats that go back to where they came from.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: Vec<f32>,
    len: usize,
    home: Buffers,
}

impl Buffers {
    /// `len` floats of arbitrary content.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let mut free = self.0.borrow_mut();
        // the smallest that is large enough; else the largest grows, so that there are no more than are in use at once
        let fitting = free.iter().enumerate().filter(|(_, b)| b.len() >= len).min_by_key(|(_, b)| b.len());
        let at = fitting.or_else(|| free.iter().enumerate().max_by_key(|(_, b)| b.len())).map(|(at, _)| at);
        let mut data = at.map_or_else(Vec::new, |at| free.swap_remove(at));
        if data.len() < len {
            data = vec![0.0; len];
        }
        Buffer { data, len, home: self.clone() }
    }

    /// A copy of `x`.
    pub(crate) fn copy(&self, x: &[f32]) -> Buffer {
        let mut buffer = self.take(x.len());
        buffer.copy_from_slice(x);
        buffer
    }

    /// `x` as a buffer; it is freed when it is dropped, for it was not taken from here.
    pub(crate) fn own(&self, x: Vec<f32>) -> Buffer {
        let len = x.len();
        Buffer { data: x, len, home: Self::default() }
    }
}

impl Buffer {
    /// The floats, copied out of the buffer.
    pub(crate) fn to_vec(&self) -> Vec<f32> {
        self.deref().to_vec()
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
        self.home.0.borrow_mut().push(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_the_best_fit_is_taken() {
        let buffers = Buffers::default();
        let (small, large) = (buffers.take(10), buffers.take(100));
        let (at_small, at_large) = (small.as_ptr(), large.as_ptr());
        drop((small, large));
        let again = buffers.take(7);
        assert_eq!((again.as_ptr(), again.len()), (at_small, 7));
        assert_eq!(buffers.take(8).as_ptr(), at_large);
        drop(again);
        assert_eq!(buffers.take(200).len(), 200);
        assert_eq!(buffers.0.borrow().len(), 2, "the larger one was grown, no third made");
        let own = buffers.own(vec![1.0; 3]);
        drop(own);
        assert_eq!(buffers.0.borrow().len(), 2, "what was not taken from here does not come back");
        assert_eq!(buffers.copy(&[1.0, 2.0]).to_vec(), [1.0, 2.0]);
    }
}
