//! A low-rank update of a linear layer (LoRA, Hu et al. 2021): `y += scaling B (A x)`, by hand.
//!
//! ```text
//! h = x Aᵀ,   y += s h Bᵀ            dh = s dy B,   dB += s dyᵀ h,   dA += dhᵀ x,   dx += dh A
//! ```
//!
//! `h` is narrow, so it is computed again in the backward pass. With dropout `x` stands for what is left of it.

use super::around::Gradients;
use super::linear::Slot;
use crate::engine::backend::{Backend, Dense, Dropout, Write};

/// An update of one linear layer, on the device.
#[derive(Debug)]
pub struct Update<B: Backend> {
    /// Which layer of its block it is for.
    pub slot: Slot,
    /// Its number among all updates of the model.
    pub index: usize,
    /// `A [r, in]`.
    pub a: B::Buffer,
    /// `B [out, r]`.
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

    fn hidden(&self, backend: &B, x: &B::Buffer) -> B::Buffer {
        let inputs = backend.len(&self.a) / self.r.max(1);
        let rows = backend.len(x) / inputs.max(1);
        let mut hidden = backend.take(rows * self.r);
        let of = Dense { m: rows, n: self.r, k: inputs, a_transposed: false, b_transposed: true, scale: 1.0 };
        backend.dense(of, x, &self.a, Write::Over, &mut hidden);
        hidden
    }

    /// Adds the update for the inputs `x` to `y`.
    pub(super) fn run(&self, backend: &B, x: &B::Buffer, first: usize, y: &mut B::Buffer) {
        let left = self.left_of(backend, x, first);
        let hidden = self.hidden(backend, left.as_ref().unwrap_or(x));
        let outputs = backend.len(&self.b) / self.r.max(1);
        let rows = backend.len(y) / outputs.max(1);
        let of = Dense {
            m: rows,
            n: outputs,
            k: self.r,
            a_transposed: false,
            b_transposed: true,
            scale: self.scaling,
        };
        backend.dense(of, &hidden, &self.b, Write::Add, y);
    }

    /// Adds the gradients of `A` and `B` to theirs, and that of `x` to `dx` where it is wanted.
    pub(super) fn pull(
        &self,
        backend: &B,
        (x, first): (&B::Buffer, usize),
        dy: &B::Buffer,
        dx: Option<&mut B::Buffer>,
        gradients: &mut Gradients<'_, B>,
    ) {
        let r = self.r;
        let (inputs, outputs) = (backend.len(&self.a) / r.max(1), backend.len(&self.b) / r.max(1));
        let rows = backend.len(dy) / outputs.max(1);
        let left = self.left_of(backend, x, first);
        let x = left.as_ref().unwrap_or(x);
        let hidden = self.hidden(backend, x);
        let plain = Dense { m: rows, n: r, k: outputs, a_transposed: false, b_transposed: false, scale: self.scaling };
        let mut dhidden = backend.take(rows * r);
        backend.dense(plain, dy, &self.b, Write::Over, &mut dhidden);
        let [da, db] = &mut gradients.updates[self.index];
        let of_b = Dense { m: outputs, n: r, k: rows, a_transposed: true, ..plain };
        backend.dense(of_b, dy, &hidden, Write::Add, db);
        let of_a = Dense { m: r, n: inputs, k: rows, a_transposed: true, b_transposed: false, scale: 1.0 };
        backend.dense(of_a, &dhidden, x, Write::Add, da);
        let Some(dx) = dx else { return };
        let of_x = Dense { m: rows, n: inputs, k: r, a_transposed: false, b_transposed: false, scale: 1.0 };
        match self.dropout {
            None => backend.dense(of_x, &dhidden, &self.a, Write::Add, dx),
            Some(dropout) => {
                let mut of_left = backend.take(rows * inputs);
                backend.dense(of_x, &dhidden, &self.a, Write::Over, &mut of_left);
                backend.drop_out(&mut of_left, dropout, first);
                backend.add(dx, &of_left);
            }
        }
    }
}
