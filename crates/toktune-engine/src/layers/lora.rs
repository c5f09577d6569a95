//! A low-rank update of a linear layer (LoRA, Hu et al. 2021): `y += scaling B (A x)`, by hand.
//!
//! ```text
//! h = x Aᵀ,   y += s h Bᵀ            dh = s dy B,   dB += s dyᵀ h,   dA += dhᵀ x,   dx += dh A
//! ```
//!
//! `h` is narrow, so it is computed again in the backward pass. With dropout `x` stands for what is left of it. `B` lies on the
//! device as its transpose, so that both factors are read along their rows.

use super::around::Gradients;
use super::linear::Slot;
use crate::backend::{Backend, Dropout};

/// An update of one linear layer, on the device.
#[derive(Debug)]
pub struct Update<B: Backend> {
    /// Which layer of its block it is for.
    pub slot: Slot,
    /// Its number among all updates of the model.
    pub index: usize,
    /// `A [r, in]`.
    pub a: B::Buffer,
    /// `Bᵀ [r, out]`.
    pub b: B::Buffer,
    /// The rank.
    pub r: usize,
    /// The factor.
    pub scaling: f32,
    /// Inputs that are left out.
    pub dropout: Option<Dropout>,
}

impl<B: Backend> Update<B> {
    /// What is left of `x [rows, in]`; nothing where all of it is. The entries of `x` are numbered from `first` on.
    fn left_of(&self, backend: &B, x: &B::Buffer, first: usize) -> Option<B::Buffer> {
        let dropout = self.dropout?;
        let mut left = backend.part(x, 0..backend.len(x));
        backend.drop_out(&mut left, dropout, first);
        Some(left)
    }

    /// `scale` times the narrow rows of wide ones, by `a` or `b`.
    fn down(&self, backend: &B, x: &B::Buffer, by: &B::Buffer, scale: f32) -> B::Buffer {
        let width = backend.len(by) / self.r.max(1);
        let mut narrow = backend.take(backend.len(x) / width.max(1) * self.r);
        backend.low_rank_down(x, by, self.r, scale, &mut narrow);
        narrow
    }

    /// Adds the update for the inputs `x` to `y`.
    pub(super) fn run(&self, backend: &B, x: &B::Buffer, first: usize, y: &mut B::Buffer) {
        let left = self.left_of(backend, x, first);
        let hidden = self.down(backend, left.as_ref().unwrap_or(x), &self.a, 1.0);
        backend.low_rank_up(&hidden, &self.b, self.r, self.scaling, y);
    }

    /// Adds the gradients of `A` and `Bᵀ` to theirs, and that of `x` to `dx` where it is wanted.
    pub(super) fn pull(
        &self,
        backend: &B,
        (x, first): (&B::Buffer, usize),
        dy: &B::Buffer,
        dx: Option<&mut B::Buffer>,
        gradients: &mut Gradients<'_, B>,
    ) {
        let left = self.left_of(backend, x, first);
        let x = left.as_ref().unwrap_or(x);
        let hidden = self.down(backend, x, &self.a, self.scaling);
        let dhidden = self.down(backend, dy, &self.b, self.scaling);
        let [da, db] = &mut gradients.updates[self.index];
        backend.low_rank_gradient(&hidden, dy, self.r, db);
        backend.low_rank_gradient(&dhidden, x, self.r, da);
        let Some(dx) = dx else { return };
        match self.dropout {
            None => backend.low_rank_up(&dhidden, &self.a, self.r, 1.0, dx),
            Some(dropout) => {
                let mut of_left = backend.zeros(backend.len(x));
                backend.low_rank_up(&dhidden, &self.a, self.r, 1.0, &mut of_left);
                backend.drop_out(&mut of_left, dropout, first);
                backend.add(dx, &of_left);
            }
        }
    }
}
