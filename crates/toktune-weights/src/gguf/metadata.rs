//! The metadata of a GGUF file: keys, typed values, and getters that say what is wrong.

use super::reader::Reader;
use crate::nearest;
use crate::{Result, WeightsError};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The deepest arrays within arrays that are read; no known file has any.
const MAX_NESTING: usize = 8;

/// A key, a type and a value take at least this many bytes.
const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;

/// Defines [`Value`] and [`Array`] from one list of GGUF's plain number types.
macro_rules! value_types {
    ($($name:ident $ty:ident $id:literal),*) => {
        /// A metadata value.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(
                #[doc = concat!("A `", stringify!($ty), "`.")]
                $name($ty),
            )*
            /// A truth value.
            Bool(bool),
            /// Text.
            String(String),
            /// Values of one type.
            Array(Array),
        }

        /// An array of metadata values, all of one type.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $(
                #[doc = concat!("Of `", stringify!($ty), "`.")]
                $name(Vec<$ty>),
            )*
            /// Of truth values.
            Bool(Vec<bool>),
            /// Of text.
            String(Vec<String>),
            /// Of arrays, whose types may differ.
            Array(Vec<Array>),
        }

        impl Value {
            pub(super) fn read(reader: &mut Reader<'_>, id: u32) -> Result<Value> {
                Ok(match id {
                    $($id => Value::$name(<$ty>::from_le_bytes(reader.chunk()?)),)*
                    7 => {
                        let [byte] = reader.chunk()?;
                        Value::Bool(reader.truth(byte)?)
                    }
                    8 => Value::String(reader.text()?),
                    9 => Value::Array(Array::read(reader, 0)?),
                    found => return Err(unknown_type(reader, found)),
                })
            }

            /// Its type's number and its bytes, as they stand in a file.
            pub(super) fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Value::$name(x) => put_typed($id, &x.to_le_bytes(), out),)*
                    Value::Bool(x) => put_typed(7, &[u8::from(*x)], out),
                    Value::String(text) => put_typed(8, &text_bytes(text), out),
                    Value::Array(array) => {
                        put_typed(9, &[], out);
                        array.put(out);
                    }
                }
            }

            /// What the value is, in words: `u32`, `an array of 5 strings`.
            pub fn describe(&self) -> String {
                match self {
                    $(Value::$name(_) => stringify!($ty).to_owned(),)*
                    Value::Bool(_) => "bool".to_owned(),
                    Value::String(_) => "a string".to_owned(),
                    Value::Array(array) => array.describe(),
                }
            }
        }

        impl Array {
            fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Array> {
                let id = reader.u32()?;
                let count = reader.u64()?;
                Ok(match id {
                    $($id => {
                        let stored = reader.chunks(count)?;
                        Array::$name(stored.iter().map(|x| <$ty>::from_le_bytes(*x)).collect())
                    })*
                    7 => {
                        let stored = reader.take(count)?;
                        Array::Bool(stored.iter().map(|byte| reader.truth(*byte)).collect::<Result<_>>()?)
                    }
                    8 => {
                        let count = reader.check_count(count, 8)?;
                        Array::String((0..count).map(|_| reader.text()).collect::<Result<_>>()?)
                    }
                    9 if depth >= MAX_NESTING => {
                        let (path, what) = (reader.path().to_path_buf(), reader.what());
                        return Err(WeightsError::MetadataNesting { path, what, limit: MAX_NESTING });
                    }
                    9 => {
                        let count = reader.check_count(count, 12)?;
                        let inner = (0..count).map(|_| Array::read(reader, depth + 1));
                        Array::Array(inner.collect::<Result<_>>()?)
                    }
                    found => return Err(unknown_type(reader, found)),
                })
            }

            /// The type's number of its entries, how many there are, and their bytes.
            fn put(&self, out: &mut Vec<u8>) {
                let count = &(self.len() as u64).to_le_bytes();
                match self {
                    $(Array::$name(values) => {
                        put_typed($id, count, out);
                        values.iter().for_each(|x| out.extend(x.to_le_bytes()));
                    })*
                    Array::Bool(values) => {
                        put_typed(7, count, out);
                        out.extend(values.iter().map(|x| u8::from(*x)));
                    }
                    Array::String(values) => {
                        put_typed(8, count, out);
                        values.iter().for_each(|text| out.extend(text_bytes(text)));
                    }
                    Array::Array(values) => {
                        put_typed(9, count, out);
                        values.iter().for_each(|array| array.put(out));
                    }
                }
            }

            /// Number of entries.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$name(values) => values.len(),)*
                    Array::Bool(values) => values.len(),
                    Array::String(values) => values.len(),
                    Array::Array(values) => values.len(),
                }
            }

            /// What the array is, in words.
            pub fn describe(&self) -> String {
                let of = match self {
                    $(Array::$name(_) => stringify!($ty),)*
                    Array::Bool(_) => "bool",
                    Array::String(_) => "strings",
                    Array::Array(_) => "arrays",
                };
                format!("an array of {} {of}", self.len())
            }
        }
    };
}

value_types!(
    U8 u8 0, I8 i8 1, U16 u16 2, I16 i16 3, U32 u32 4, I32 i32 5, F32 f32 6,
    U64 u64 10, I64 i64 11, F64 f64 12
);

fn put_typed(id: u32, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(id.to_le_bytes());
    out.extend(bytes);
}

/// A length and the bytes: how GGUF writes text.
pub(super) fn text_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Array {
    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn unknown_type(reader: &Reader<'_>, found: u32) -> WeightsError {
    WeightsError::MetadataUnknownType { path: reader.path().to_path_buf(), what: reader.what(), found }
}

/// A Rust type that a metadata value can be read as, without loss.
pub trait FromValue<'a>: Sized {
    /// What is expected, for messages.
    const EXPECTED: &'static str;

    /// The value as this type; `None` when it is of another type or out of range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

/// Any integer as `i128`, which holds all of GGUF's.
fn integer(value: &Value) -> Option<i128> {
    Some(match *value {
        Value::U8(x) => x.into(),
        Value::I8(x) => x.into(),
        Value::U16(x) => x.into(),
        Value::I16(x) => x.into(),
        Value::U32(x) => x.into(),
        Value::I32(x) => x.into(),
        Value::U64(x) => x.into(),
        Value::I64(x) => x.into(),
        _ => return None,
    })
}

/// Any array of integers.
fn integers<T: TryFrom<i128>>(value: &Value) -> Option<Vec<T>> {
    fn collect<X: Copy + Into<i128>, T: TryFrom<i128>>(values: &[X]) -> Option<Vec<T>> {
        values.iter().map(|x| T::try_from((*x).into()).ok()).collect()
    }
    let Value::Array(array) = value else { return None };
    match array {
        Array::U8(values) => collect(values),
        Array::I8(values) => collect(values),
        Array::U16(values) => collect(values),
        Array::I16(values) => collect(values),
        Array::U32(values) => collect(values),
        Array::I32(values) => collect(values),
        Array::U64(values) => collect(values),
        Array::I64(values) => collect(values),
        _ => None,
    }
}

macro_rules! from_value {
    ($($ty:ty, $expected:literal, $value:ident => $body:expr;)*) => {
        $(
            impl<'a> FromValue<'a> for $ty {
                const EXPECTED: &'static str = $expected;

                fn from_value($value: &'a Value) -> Option<Self> {
                    $body
                }
            }
        )*
    };
}

from_value! {
    u32, "an integer from 0 to 4294967295", value => u32::try_from(integer(value)?).ok();
    u64, "an integer of at least 0", value => u64::try_from(integer(value)?).ok();
    usize, "an integer of at least 0", value => usize::try_from(integer(value)?).ok();
    i64, "an integer", value => i64::try_from(integer(value)?).ok();
    f32, "an f32", value => match value { Value::F32(x) => Some(*x), _ => None };
    f64, "an f32 or f64", value => match value {
        Value::F32(x) => Some((*x).into()),
        Value::F64(x) => Some(*x),
        _ => None,
    };
    bool, "a bool", value => match value { Value::Bool(x) => Some(*x), _ => None };
    &'a str, "a string", value => match value { Value::String(x) => Some(x), _ => None };
    &'a [String], "an array of strings", value => match value {
        Value::Array(Array::String(values)) => Some(values),
        _ => None,
    };
    &'a [f32], "an array of f32", value => match value {
        Value::Array(Array::F32(values)) => Some(values),
        _ => None,
    };
    &'a [bool], "an array of bool", value => match value {
        Value::Array(Array::Bool(values)) => Some(values),
        _ => None,
    };
    &'a Array, "an array", value => match value { Value::Array(array) => Some(array), _ => None };
    Vec<u32>, "an array of integers from 0 to 4294967295", value => integers(value);
    Vec<u64>, "an array of integers of at least 0", value => integers(value);
    Vec<usize>, "an array of integers of at least 0", value => integers(value);
    Vec<i64>, "an array of integers", value => integers(value);
}

/// What a GGUF file says about its model and tokenizer.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: Arc<Path>,
    entries: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    pub(super) fn read(reader: &mut Reader<'_>, path: Arc<Path>, count: u64) -> Result<Self> {
        reader.enter(|| format!("the metadata's {count} entries"));
        let count = reader.check_count(count, MIN_PAIR_BYTES)?;
        let mut metadata = Self { path, entries: Vec::new(), by_key: HashMap::new() };
        for i in 0..count {
            reader.enter(|| format!("metadata key {i}"));
            let key = reader.name()?;
            reader.enter(|| format!("metadata '{key}'"));
            let id = reader.u32()?;
            let value = Value::read(reader, id)?;
            if metadata.by_key.insert(key.clone(), i).is_some() {
                return Err(WeightsError::DuplicateMetadata { path: metadata.path.to_path_buf(), key });
            }
            metadata.entries.push((key, value));
        }
        Ok(metadata)
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|at| &self.entries[*at].1)
    }

    /// The value of a key as a certain type; `None` when the key is not there.
    ///
    /// # Errors
    /// The value is of another type, or out of range.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(WeightsError::MetadataType {
                path: self.path.to_path_buf(),
                key: key.to_owned(),
                expected: T::EXPECTED,
                found: value.describe(),
            }),
        }
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// There is no such key (the nearest is told), or the value is of another type or out of range.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.get(key)?.ok_or_else(|| WeightsError::MissingMetadata {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            nearest: nearest(key, self.entries.iter().map(|(key, _)| key.as_str())).map(str::to_owned),
        })
    }

    /// All keys and values, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }
}
