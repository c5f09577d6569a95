//! What surrounds a block in a pass.

use super::lora::Update;
use crate::backend::{Backend, Rotation, Sequences};

/// Where the rows of a pass stand: their sequences and the rotations of their positions.
#[derive(Debug)]
pub struct Rows<B: Backend> {
    /// Their tokens.
    pub ids: Vec<u32>,
    /// The sequences.
    pub sequences: Sequences,
    /// The rows of the encoder that they attend to.
    pub cross: Option<Sequences>,
    /// The rotations, one for each rotary embedding of the stack.
    pub rotations: Vec<Rotation<B::Buffer>>,
    /// The factor on the queries of each row, where some layers have one.
    pub temperatures: Option<B::Buffer>,
    /// The position of each row in its sequence.
    pub positions: Vec<u32>,
    /// For each span, the tokens of padding before it, where positions do not count them.
    pub uncounted: Vec<usize>,
}

/// Keys and values `[rows, kv_heads * head_dim]` of one block, after norms and rotation. A convolution's rows `[rows, d]`
/// stand in the place of the keys, and it has no values.
#[derive(Debug)]
pub struct KeyValues<X> {
    /// Keys.
    pub k: X,
    /// Values.
    pub v: X,
}

/// The last hidden rows of an encoder, as a decoder's blocks attend to them.
#[derive(Debug)]
pub struct Memory<X> {
    /// The rows that depend on what is trained, `[rows, d]`.
    pub depending: X,
    /// The rows that do not; nothing where there are none.
    pub constant: Option<X>,
}

/// What a block sees of its surroundings.
#[derive(Debug)]
pub struct Around<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// Where the rows stand.
    pub rows: &'a Rows<B>,
    /// Keys and values of constant rows that come before.
    pub past: Option<&'a KeyValues<B::Buffer>>,
    /// The encoder's rows; none without one.
    pub memory: Option<&'a Memory<B::Buffer>>,
    /// The updates of the block's linear layers.
    pub updates: &'a [Update<B>],
}

impl<B: Backend> Clone for Around<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Around<'_, B> {}

/// Where a backward pass leaves what is not the gradient of a block's input.
#[derive(Debug)]
pub struct Gradients<'a, B: Backend> {
    /// Added to: the gradient of the encoder's depending rows.
    pub memory: Option<&'a mut B::Buffer>,
    /// Added to: the gradients of `A` and `B` of all updates, by [`Update::index`].
    pub updates: &'a mut [[B::Buffer; 2]],
}
