//! SentencePiece's model file, a protobuf: the fields that a tokenizer is built from.
//!
//! Nothing is allocated by a length that the file states before so many bytes are there.

use std::path::Path;

use super::wrong;
use crate::TextError;

/// A piece of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    /// SentencePiece's kind; see [`CONTROL`] and [`USER_DEFINED`].
    pub kind: u64,
}

/// A special piece.
pub(super) const CONTROL: u64 = 3;
/// A piece that is matched whole.
pub(super) const USER_DEFINED: u64 = 4;

/// What a model file says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelFile {
    pub pieces: Vec<Piece>,
    /// Pairs are merged; else the likeliest cut is taken.
    pub merges_pairs: bool,
    pub byte_fallback: bool,
    pub unk_id: u64,
    pub unk_piece: String,
    /// Spaces at the ends of a text go, and several become one.
    pub removes_spaces: bool,
    /// The compiled normaliser; empty when there is none.
    pub charsmap: Vec<u8>,
}

impl ModelFile {
    /// Reads a file's bytes.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TextError> {
        let mut file = ModelFile {
            pieces: Vec::new(),
            merges_pairs: false,
            byte_fallback: false,
            unk_id: 0,
            unk_piece: "<unk>".to_owned(),
            removes_spaces: true,
            charsmap: Vec::new(),
        };
        let mut kind = 1;
        file.read(bytes, &mut kind)
            .ok_or_else(|| wrong(path, "not a SentencePiece model: its fields cannot be read"))?;
        match kind {
            1 => {}
            2 => file.merges_pairs = true,
            other => {
                let reason =
                    format!("a SentencePiece model of kind {other}, expected 1 (unigram) or 2 (pairs)");
                return Err(wrong(path, reason));
            }
        }
        match file.pieces.iter().position(|piece| !piece.score.is_finite()) {
            Some(id) => Err(wrong(path, format!("piece {id} has the score {}", file.pieces[id].score))),
            None if file.pieces.is_empty() => Err(wrong(path, "not a SentencePiece model: it has no pieces")),
            None if file.unk_id >= file.pieces.len() as u64 => Err(wrong(
                path,
                format!("the unknown token is piece {}, of {}", file.unk_id, file.pieces.len()),
            )),
            None => Ok(file),
        }
    }

    fn read(&mut self, bytes: &[u8], kind: &mut u64) -> Option<()> {
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(piece)) => self.pieces.push(piece_of(piece)?),
                (2, Value::Bytes(trainer)) => {
                    let mut fields = Fields(trainer);
                    while let Some((number, value)) = fields.next()? {
                        match (number, value) {
                            (3, Value::Number(found)) => *kind = found,
                            (35, Value::Number(on)) => self.byte_fallback = on != 0,
                            (40, Value::Number(id)) => self.unk_id = id,
                            (45, Value::Bytes(text)) => self.unk_piece = string(text)?,
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    let mut fields = Fields(normalizer);
                    while let Some((number, value)) = fields.next()? {
                        match (number, value) {
                            (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                            (4, Value::Number(on)) => self.removes_spaces = on != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(())
    }
}

fn piece_of(bytes: &[u8]) -> Option<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(text)) => piece.text = string(text)?,
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Number(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Some(piece)
}

fn string(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// A field's value, by protobuf's wire types.
enum Value<'v> {
    Number(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'v [u8]),
}

/// The fields of a message, one after the other.
struct Fields<'f>(&'f [u8]);

impl<'f> Fields<'f> {
    /// The next field with its number; `Some(None)` at the end, `None` when the bytes are no message.
    fn next(&mut self) -> Option<Option<(u64, Value<'f>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some(Some((tag >> 3, value)))
    }

    fn take(&mut self, length: usize) -> Option<&'f [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}
