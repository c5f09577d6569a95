//! Files of columns: Parquet, and the Arrow files that `datasets` saves. Their rows are made into objects of JSON.
//!
//! Only the columns that a row can be known by are read. A value that is null is left out, as TRL does: a table has a place
//! for every key of every message, and a message that lacks one must look the same from every kind of file.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use super::{Content, LONGEST_ROW, Record, Take};
use crate::data::error::{DataError, Result};
use crate::data::files::{DataFile, Format};
use crate::data::row::{is_key_of_any, is_known_key};
use crate::data::{RowKeys, Source};

/// Rows that are taken out of a Parquet file at a time.
const ROWS: usize = 256;
/// What is read of an Arrow file at a time.
const PIECE: usize = 4 << 20;
/// Before the stream of an Arrow file that has a directory at its end.
const MAGIC: &[u8] = b"ARROW1";

/// Batches of a file, in turn.
type Batches = Box<dyn Iterator<Item = Result<RecordBatch, String>>>;

/// Calls `take` with each row of the file.
pub(super) fn read(file: &DataFile, opened: File, keys: &RowKeys, take: Take<'_>) -> Result<()> {
    let unreadable =
        |reason: String| -> DataError { DataError::Unreadable { path: file.shown.to_path_buf(), reason } };
    let (mut batches, rows) = match file.format {
        Format::Parquet => guarded(|| parquet(opened, keys)).map_err(unreadable)?,
        _ => (arrow(opened, file)?, None),
    };
    let mut line = 0;
    while let Some(batch) = guarded(|| Ok(batches.next())).map_err(unreadable)? {
        let batch = batch.map_err(unreadable)?;
        let schema = batch.schema();
        let names = wanted(&schema, keys);
        let known = names.iter().any(|column| is_known_key(schema.field(*column).name(), keys));
        for row in 0..batch.num_rows() {
            line += 1;
            let at = || Source { file: file.shown.clone(), line };
            let mut fields = Map::new();
            for &column in &names {
                let (field, array) = (schema.field(column), batch.column(column));
                let value = guarded(|| Ok(value(array, row))).map_err(unreadable)?;
                let found =
                    |found: String| DataError::ColumnType { at: at(), column: field.name().clone(), found };
                // of a file with no column of use, the names alone are told
                let value = if known { value.map_err(found)? } else { Some(Value::Bool(true)) };
                if let Some(value) = value {
                    fields.insert(field.name().clone(), value);
                }
            }
            let record = Record { line, content: Content::Fields(fields) };
            if record.size() > LONGEST_ROW {
                return Err(DataError::RowTooLong { at: at(), most: LONGEST_ROW });
            }
            let position = rows.map_or(0, |rows| file.size * line as u64 / rows.max(1));
            take(record, position.min(file.size))?;
        }
    }
    Ok(())
}

/// What a reader of somebody else's gives, its panics among its errors: it was not made for files that mean ill.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the file is damaged".to_owned()))
}

/// The columns that are read: those that rows are known by, or all when there is none, for a message that names them.
fn wanted(schema: &Schema, keys: &RowKeys) -> Vec<usize> {
    let fields = schema.fields();
    let is_known = |column: &usize| is_known_key(fields[*column].name(), keys);
    if !(0..fields.len()).any(|column| is_known(&column)) {
        return (0..fields.len()).collect();
    }
    (0..fields.len()).filter(|column| is_known(column) || is_key_of_any(fields[*column].name())).collect()
}

/// The batches of a Parquet file and the number of its rows.
fn parquet(file: File, keys: &RowKeys) -> Result<(Batches, Option<u64>), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    let roots = wanted(builder.schema(), keys);
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let rows = builder.metadata().file_metadata().num_rows();
    let reader =
        builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|error| error.to_string())?;
    let batches = reader.map(|batch| batch.map_err(|error| error.to_string()));
    Ok((Box::new(batches), u64::try_from(rows).ok()))
}

/// The batches of an Arrow file, with or without a directory: what stands before the directory is a stream.
fn arrow(mut file: File, of: &DataFile) -> Result<Batches> {
    let (shown, mut decoder) = (of.shown.clone(), StreamDecoder::new());
    let (mut buffer, mut first, mut ended) = (Buffer::from_vec(Vec::<u8>::new()), true, false);
    Ok(Box::new(std::iter::from_fn(move || {
        while !ended {
            if buffer.is_empty() {
                let mut piece = Vec::new();
                if let Err(error) = file.by_ref().take(PIECE as u64).read_to_end(&mut piece) {
                    ended = true;
                    return Some(Err(format!("{}: {error}", shown.display())));
                }
                if std::mem::take(&mut first) && piece.starts_with(MAGIC) {
                    // filled up with zeros to a place of the writer's choice; a stream begins with none
                    let zeros = piece[MAGIC.len()..].iter().take_while(|byte| **byte == 0).count();
                    piece.drain(..MAGIC.len() + zeros);
                }
                if piece.is_empty() {
                    ended = true;
                    return decoder.finish().err().map(|error| Err(error.to_string()));
                }
                buffer = Buffer::from_vec(piece);
            }
            match decoder.decode(&mut buffer) {
                Ok(Some(batch)) => return Some(Ok(batch)),
                Ok(None) => {}
                Err(error) => {
                    ended = true;
                    // what follows the end of the stream is the directory
                    return decoder.finish().err().map(|_| Err(error.to_string()));
                }
            }
        }
        None
    })))
}

/// The value in `row` of a column, `None` where it is null; `Err` is a type that has no place in a row of data.
fn value(array: &ArrayRef, row: usize) -> Result<Option<Value>, String> {
    if array.is_null(row) {
        return Ok(None);
    }
    macro_rules! number {
        ($kind:ty) => {
            Value::from(array.as_primitive::<$kind>().value(row))
        };
    }
    // JSON has no place for the others, and what is left out would be taken for what was never there
    let float = |number: f64| match number.is_finite() {
        true => Ok(Value::from(number)),
        false => Err(format!("{} with {number} in it", array.data_type())),
    };
    let list = |items: ArrayRef| -> Result<Value, String> {
        let items = (0..items.len()).map(|item| Ok(value(&items, item)?.unwrap_or(Value::Null)));
        Ok(Value::Array(items.collect::<Result<_, String>>()?))
    };
    Ok(Some(match array.data_type() {
        DataType::Null => return Ok(None),
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => float(array.as_primitive::<Float16Type>().value(row).to_f64())?,
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row).into())?,
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row))?,
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::List(_) => list(array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row))?,
        DataType::Struct(fields) => {
            let mut object = Map::new();
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                if let Some(value) = value(column, row)? {
                    object.insert(field.name().clone(), value);
                }
            }
            Value::Object(object)
        }
        DataType::Dictionary(..) => {
            let keys = array.as_any_dictionary();
            let key = keys.normalized_keys().get(row).copied().unwrap_or_default();
            return value(keys.values(), key);
        }
        other => return Err(other.to_string()),
    }))
}
