//! The part of Python's pickle format that `torch.save` writes for a dictionary of tensors.
//!
//! A pickle is a program for a stack machine. This machine builds values and calls nothing: a class is a name, and
//! a call is a value that says what was to be called with what. It is not candle's (`candle_core::pickle`), which
//! prints, panics on tuples that are too short, allocates a string's announced length before looking for it, and
//! copies a value each time it is recalled, so that a hundred bytes can ask for any amount of memory. Here values
//! lie in one table and refer to one another by their numbers: a file of `n` bytes makes at most `n` values, and
//! nothing recurses.

use crate::{Result, WeightsError};
use std::collections::HashMap;
use std::path::Path;

/// The longest program that is run: that of a real checkpoint has some 200 bytes a tensor.
const MAX_BYTES: usize = 1 << 24;

/// A value, by its number in the table.
pub(super) type Id = usize;

/// What a program can build. Texts are parts of the program.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// `None`, and numbers that nothing here needs.
    Other,
    Int(i64),
    /// An integer of more than eight bytes, which are given.
    Long(&'a [u8]),
    Bool(bool),
    Text(&'a str),
    /// A class or function: its module and its name.
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// What was to be called, and with what.
    Call(Id, Id),
    /// What lies outside of the program: a storage.
    Outside(Id),
}

/// What a program built.
#[derive(Debug)]
pub(super) struct Values<'a> {
    values: Vec<Value<'a>>,
    top: Id,
    end: usize,
}

impl<'a> Values<'a> {
    /// The byte behind the program.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The number of the value that the program ends with.
    pub fn top_id(&self) -> Id {
        self.top
    }

    /// What the values that lie outside are called, in the order they were named.
    pub fn outside(&self) -> impl Iterator<Item = Id> {
        self.values.iter().filter_map(|value| match value {
            Value::Outside(id) => Some(*id),
            _ => None,
        })
    }

    /// The keys and values of a dictionary; `None` for anything else.
    ///
    /// Python 2 wrote an ordered one as a call with a list of pairs.
    pub fn pairs(&self, id: Id) -> Option<Vec<(Id, Id)>> {
        let arguments = match *self.get(id) {
            Value::Dict(ref pairs) => return Some(pairs.clone()),
            Value::Call(of, arguments)
                if matches!(self.get(of), Value::Global("collections", "OrderedDict")) =>
            {
                arguments
            }
            _ => return None,
        };
        let [list] = *self.tuple(arguments)? else { return None };
        let Value::List(items) = self.get(list) else { return None };
        let pair = |id: &Id| match self.get(*id) {
            Value::List(pair) | Value::Tuple(pair) => {
                <[Id; 2]>::try_from(pair.as_slice()).ok().map(<(Id, Id)>::from)
            }
            _ => None,
        };
        items.iter().map(pair).collect()
    }

    /// The value that the program ends with.
    pub fn top(&self) -> &Value<'a> {
        self.get(self.top)
    }

    /// The value of this number.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id]
    }

    /// The values of a tuple; `None` for anything else.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that is not negative.
    pub fn number(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// A tuple of such numbers, the first `most` of them: many values may share a tuple of any length.
    pub fn numbers(&self, id: Id, most: usize) -> Option<Vec<u64>> {
        self.tuple(id)?.iter().take(most).map(|id| self.number(*id)).collect()
    }

    /// The value in words, for a message.
    pub fn described(&self, id: Id) -> String {
        match self.get(id) {
            Value::Other => "a number or None".into(),
            Value::Int(number) => number.to_string(),
            Value::Long(_) => "a number".into(),
            Value::Bool(truth) => truth.to_string(),
            Value::Text(_) => "a text".into(),
            Value::Global(module, name) => format!("{module}.{name}"),
            Value::Tuple(_) => "a tuple".into(),
            Value::List(_) => "a list".into(),
            Value::Dict(_) => "a dictionary".into(),
            Value::Call(of, _) => match self.get(*of) {
                Value::Global(module, name) => format!("a call of {module}.{name}"),
                _ => "a call".into(),
            },
            Value::Outside(_) => "a storage".into(),
        }
    }
}

/// Runs a program that is a file of its own.
///
/// # Errors
/// As [`run_from`], and when it is too long.
pub(super) fn run<'a>(path: &Path, program: &'a [u8]) -> Result<Values<'a>> {
    if program.len() > MAX_BYTES {
        let (found, limit) = (program.len() as u64, MAX_BYTES as u64);
        return Err(WeightsError::HeaderTooLarge { path: path.to_path_buf(), found, limit });
    }
    run_from(path, program, 0)
}

/// Runs the program that begins at byte `start` of a file, which goes on behind it.
///
/// # Errors
/// It ends early, uses an instruction that `torch.save` does not write for tensors, or takes from the stack what is not
/// there.
pub(super) fn run_from<'a>(path: &Path, file: &'a [u8], start: usize) -> Result<Values<'a>> {
    let most = start.saturating_add(MAX_BYTES).min(file.len());
    let program = file.get(..most).unwrap_or_default();
    let mut machine = Machine {
        program,
        at: start.min(program.len()),
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let start = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(top)) => return Ok(Values { values: machine.values, top, end: machine.at }),
            Err(problem) => {
                return Err(WeightsError::Pickle { path: path.to_path_buf(), at: start as u64, problem });
            }
        }
    }
}

/// What went wrong in an instruction.
type Step<T> = std::result::Result<T, String>;

struct Machine<'a> {
    program: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction; the last one gives the program's value.
    fn step(&mut self) -> Step<Option<Id>> {
        match self.byte()? {
            // the version, and the length of a part: neither is needed
            0x80 => self.take(1).map(drop)?,
            0x95 => self.take(8).map(drop)?,
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::Other),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let number = i32::from_le_bytes(self.chunk()?);
                self.push(Value::Int(number.into()));
            }
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.chunk()?);
                self.push(Value::Int(number.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Other);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.chunk()?);
                self.text(length.into())?;
            }
            // a short text; the second is of Python 2, and so is the long one below
            0x8c | b'U' => {
                let length = self.byte()?;
                self.text(length.into())?;
            }
            b'T' => {
                let length = i32::from_le_bytes(self.chunk()?);
                self.text(u64::try_from(length).map_err(|_| "a text of a negative length")?)?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.chunk()?);
                self.text(length)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (&self.values[module], &self.values[name])
                else {
                    return Err("the name of a class is no text".into());
                };
                let global = Value::Global(module, name);
                self.push(global);
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(items)?;
            }
            b'R' | 0x81 => self.call()?,
            // the state of an object; all that torch gives a dictionary of tensors is its versions
            b'b' => self.pop().map(drop)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Outside(id));
            }
            b'q' => {
                let number = self.byte()?;
                self.remember(number.into())?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.chunk()?);
                self.remember(number)?;
            }
            // at most one a byte, and the program is shorter than 2^32
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let number = self.byte()?;
                self.recall(number.into())?;
            }
            b'j' => {
                let number = u32::from_le_bytes(self.chunk()?);
                self.recall(number)?;
            }
            other => return Err(format!("instruction {other:#04x} has no place in a file of tensors")),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let rest = &self.program[self.at..];
        let taken =
            rest.get(..count).ok_or_else(|| format!("{count} bytes are needed, {} are left", rest.len()))?;
        self.at += count;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut chunk = [0; N];
        chunk.copy_from_slice(self.take(N)?);
        Ok(chunk)
    }

    fn byte(&mut self) -> Step<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn text(&mut self, length: u64) -> Step<()> {
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a text is not valid UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// A text up to a line break.
    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.program[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("a line without an end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name is not valid UTF-8".into())
    }

    /// A number; one of more than eight bytes counts nothing that exists.
    fn long(&mut self) -> Step<()> {
        let count = self.byte()?;
        let bytes = self.take(count.into())?;
        let value = match bytes.len() {
            0 => Value::Int(0),
            length @ 1..=8 => {
                let sign = if bytes[length - 1] & 0x80 != 0 { 0xff } else { 0 };
                let mut number = [sign; 8];
                number[..length].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(number))
            }
            _ => Value::Long(bytes),
        };
        self.push(value);
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        // a mark is never above the stack: nothing is taken from below the last one
        self.marks.pop().map(|mark| self.stack.split_off(mark)).ok_or_else(|| "there is no mark".into())
    }

    fn tuple(&mut self, count: usize) -> Step<()> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Step<Vec<Id>>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Step<()> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(list) => list.extend(items),
            _ => return Err("items for what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Id>) -> Step<()> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[dict] {
            Value::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)))
            }
            _ => return Err("items for what is no dictionary, or a key without a value".into()),
        }
        Ok(())
    }

    /// A call; an empty ordered dictionary is one that later instructions fill.
    fn call(&mut self) -> Step<()> {
        let (arguments, of) = (self.pop()?, self.pop()?);
        let is_dict = matches!(self.values[of], Value::Global("collections", "OrderedDict"));
        let is_empty = matches!(&self.values[arguments], Value::Tuple(items) if items.is_empty());
        self.push(if is_dict && is_empty { Value::Dict(Vec::new()) } else { Value::Call(of, arguments) });
        Ok(())
    }

    fn remember(&mut self, number: u32) -> Step<()> {
        let id = self.top()?;
        self.memo.insert(number, id);
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Step<()> {
        let id = self.memo.get(&number).ok_or_else(|| format!("value {number} was not remembered"))?;
        self.stack.push(*id);
        Ok(())
    }
}
