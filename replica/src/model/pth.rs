//! Reads what `torch.save(model.state_dict())` writes, in its zip format and the older one that some of torchvision's
//! published files have.
//!
//! A pickle is a program for a small stack machine. Only the instructions that a state dict needs are understood, and
//! the only functions it may name are the ones that describe tensors; none is ever called. Anything else is an error.
//! Sources: CPython's `Lib/pickletools.py` (instructions), PyTorch's `torch/serialization.py` (both layouts).

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::rc::Rc;

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    /// Sizes, outermost first.
    pub shape: Vec<i64>,
    /// What `data` holds.
    pub element: Element,
    /// Little-endian numbers, row-major.
    pub data: Vec<u8>,
}

/// Kind of number in a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// Integers and such, which no weight is; only counters are stored so.
    Other,
}

impl Element {
    fn of_storage(class: &str) -> Option<(Self, usize)> {
        Some(match class {
            "torch FloatStorage" => (Self::F32, 4),
            "torch HalfStorage" => (Self::F16, 2),
            "torch BFloat16Storage" => (Self::Bf16, 2),
            "torch LongStorage" | "torch DoubleStorage" => (Self::Other, 8),
            "torch IntStorage" => (Self::Other, 4),
            "torch ByteStorage" | "torch CharStorage" | "torch BoolStorage" => (Self::Other, 1),
            _ => return None,
        })
    }
}

/// Why the file is not a state dict.
#[derive(Debug, thiserror::Error)]
#[error("not a state dict as torch.save(model.state_dict()) writes it: {0}")]
pub(super) struct Error(String);

fn error<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error(reason.into()))
}

/// Every tensor of a state dict with its name, in the file's order.
///
/// # Errors
/// When the file is neither layout, holds other objects, or is cut short.
pub(super) fn read(file: &[u8]) -> Result<Vec<(String, Stored)>, Error> {
    if file.starts_with(b"PK") { read_zip(file) } else { read_legacy(file) }
}

fn read_zip(file: &[u8]) -> Result<Vec<(String, Stored)>, Error> {
    let mut archive =
        zip::ZipArchive::new(Cursor::new(file)).or_else(|cause| error(format!("bad zip file: {cause}")))?;
    let root = archive.file_names().flatten().find_map(|name| name.strip_suffix("data.pkl").map(str::to_owned));
    let Some(root) = root else { return error("the zip file has no data.pkl") };
    // Entries may overlap, so that together they could be read many times over.
    let mut left = file.len() as u64;
    let mut entry = |name: &str| -> Result<Vec<u8>, Error> {
        let entry = archive.by_name(&format!("{root}{name}")).or_else(|cause| error(format!("{name}: {cause}")))?;
        // torch.save stores without compression, so nothing can unpack to more than the file itself.
        if entry.compression() != zip::CompressionMethod::Stored {
            return error(format!("{name} is compressed"));
        }
        let mut bytes = Vec::new();
        left = match left.checked_sub(entry.size()) {
            Some(left) => left,
            None => return error("its entries hold more than the file itself"),
        };
        let size = entry.size();
        entry.take(size).read_to_end(&mut bytes).or_else(|cause| error(format!("{name}: {cause}")))?;
        Ok(bytes)
    };
    if let Ok(order) = entry("byteorder")
        && order != b"little"
    {
        return error("the numbers are big-endian");
    }
    let pickle = entry("data.pkl")?;
    let views = views(Machine::new(&pickle).run()?)?;
    let mut storages = HashMap::new();
    for (_, view) in &views {
        if !storages.contains_key(&view.storage.key) {
            storages.insert(view.storage.key.clone(), entry(&format!("data/{}", view.storage.key))?);
        }
    }
    gather(views, &storages)
}

/// Five pickles (magic number, protocol, system, the state dict, storage keys), then each storage: its length as u64
/// and its numbers.
fn read_legacy(file: &[u8]) -> Result<Vec<(String, Stored)>, Error> {
    const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    if file.get(4..14) != Some(&MAGIC[..]) {
        return error("neither a zip file nor torch's older format");
    }
    let mut machine = Machine::new(file);
    for _ in 0..3 {
        machine.run()?;
    }
    let views = views(machine.run()?)?;
    let Value::List(keys) = machine.run()? else { return error("no list of storages") };
    let sizes: HashMap<&str, usize> =
        views.iter().map(|(_, view)| (view.storage.key.as_str(), view.storage.element_bytes)).collect();
    let mut storages = HashMap::new();
    for key in keys.iter() {
        let Value::Text(key) = key else { return error("a storage's key is not text") };
        let length = u64::from_le_bytes(machine.take(8)?.try_into().expect("eight bytes"));
        let element_bytes = sizes.get(&**key).copied().unwrap_or(1);
        let bytes = usize::try_from(length).ok().and_then(|length| length.checked_mul(element_bytes));
        let Some(bytes) = bytes else { return error("a storage's length is absurd") };
        storages.insert(key.to_string(), machine.take(bytes)?.to_vec());
    }
    gather(views, &storages)
}

fn views(value: Value) -> Result<Vec<(String, View)>, Error> {
    let Value::Dict(entries) = value else { return error("the file's object is not a dict") };
    entries
        .into_iter()
        .map(|(key, value)| match (key, value) {
            (Value::Text(name), Value::Tensor(view)) => Ok((name.to_string(), View::clone(&view))),
            (Value::Text(name), _) => {
                error(format!("{name} is not a tensor; save the state dict alone, not a whole checkpoint"))
            }
            _ => error("a name is not text"),
        })
        .collect()
}

fn gather(views: Vec<(String, View)>, storages: &HashMap<String, Vec<u8>>) -> Result<Vec<(String, Stored)>, Error> {
    // Tensors may share numbers, but not so that a small file becomes a large model.
    let mut left = MAX_SHARING * storages.values().map(Vec::len).sum::<usize>();
    views
        .into_iter()
        .map(|(name, view)| {
            let numbers = view.bytes().and_then(|range| storages.get(&view.storage.key)?.get(range));
            match numbers {
                Some(data) if data.len() > left => error("its tensors share their numbers too often"),
                Some(data) => {
                    left -= data.len();
                    let data = data.to_vec();
                    Ok((name, Stored { shape: view.shape, element: view.storage.element, data }))
                }
                None => error(format!("{name} reaches past the end of its numbers, or the file is cut short")),
            }
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Storage {
    element: Element,
    element_bytes: usize,
    key: String,
}

/// A contiguous tensor within a storage.
#[derive(Debug, Clone)]
struct View {
    storage: Storage,
    offset: usize,
    shape: Vec<i64>,
}

impl View {
    fn bytes(&self) -> Option<std::ops::Range<usize>> {
        let count = self.shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side.try_into().ok()?))?;
        let start = self.offset.checked_mul(self.storage.element_bytes)?;
        Some(start..start.checked_add(count.checked_mul(self.storage.element_bytes)?)?)
    }
}

#[derive(Debug, Clone)]
enum Value {
    Mark,
    None,
    Int(i64),
    Text(Rc<str>),
    Global(Rc<str>),
    /// Its nesting, so that a hostile file cannot exhaust the stack when the value is dropped.
    Tuple(Rc<[Value]>, u8),
    List(Rc<[Value]>),
    Dict(Vec<(Value, Value)>),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
}

/// How deep dicts and tuples may be nested, so that a hostile file cannot exhaust the stack.
const MAX_NESTING: u8 = 8;

/// Sides of one tensor at most.
const MAX_RANK: usize = 8;

/// How often each number may be used, on average.
const MAX_SHARING: usize = 4;

/// The stack machine that a pickle is written for.
struct Machine<'a> {
    program: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl<'a> Machine<'a> {
    fn new(program: &'a [u8]) -> Self {
        Self { program, stack: Vec::new(), memo: HashMap::new() }
    }

    /// Runs one pickle to its end and leaves `program` after it.
    fn run(&mut self) -> Result<Value, Error> {
        self.stack.clear();
        self.memo.clear();
        loop {
            let instruction = self.take(1)?[0];
            match instruction {
                // PROTO
                0x80 => drop(self.take(1)?),
                // STOP
                b'.' => return self.pop(),
                // MARK, NONE, NEWTRUE, NEWFALSE
                b'(' => self.stack.push(Value::Mark),
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Int(1)),
                0x89 => self.stack.push(Value::Int(0)),
                // BININT, BININT1, BININT2, LONG1
                b'J' => self.little_endian(4)?,
                b'K' => {
                    let byte = self.take(1)?[0];
                    self.stack.push(Value::Int(byte.into()));
                }
                b'M' => {
                    let bytes = self.take(2)?;
                    self.stack.push(Value::Int(u16::from_le_bytes([bytes[0], bytes[1]]).into()));
                }
                0x8a => {
                    let length = self.take(1)?[0].into();
                    self.little_endian(length)?;
                }
                // BINUNICODE
                b'X' => {
                    let length = self.u32()? as usize;
                    match std::str::from_utf8(self.take(length)?) {
                        Ok(text) => self.stack.push(Value::Text(text.into())),
                        Err(_) => return error("text is not UTF-8"),
                    }
                }
                // GLOBAL: two lines
                b'c' => {
                    let name = format!("{} {}", self.line()?, self.line()?);
                    self.stack.push(Value::Global(name.into()));
                }
                // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
                b')' => self.push_tuple(Vec::new())?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_tuple(items)?;
                }
                0x85..=0x87 => {
                    let first = self.stack.len().checked_sub(usize::from(instruction - 0x84));
                    let Some(first) = first else { return error("the stack is too short") };
                    let items = self.stack.split_off(first);
                    self.push_tuple(items)?;
                }
                // EMPTY_LIST, APPENDS, EMPTY_DICT
                b']' => self.stack.push(Value::List(Rc::new([]))),
                b'e' => {
                    let items = self.pop_to_mark()?;
                    match self.pop()? {
                        Value::List(list) if list.is_empty() && items.iter().all(|i| matches!(i, Value::Text(_))) => {
                            self.stack.push(Value::List(items.into()));
                        }
                        _ => return error("a list of other things than text"),
                    }
                }
                b'}' => self.stack.push(Value::Dict(Vec::new())),
                // SETITEM, SETITEMS
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.insert(items)?;
                }
                // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
                b'q' => self.remember(false)?,
                b'r' => self.remember(true)?,
                b'h' => self.recall(false)?,
                b'j' => self.recall(true)?,
                // BINPERSID
                b'Q' => {
                    let id = self.pop()?;
                    self.stack.push(storage(&id)?);
                }
                // REDUCE
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.stack.push(describe(&function, &arguments)?);
                }
                // BUILD: sets attributes of the dict (`_metadata`); they do not matter here
                b'b' => drop(self.pop()?),
                other => return error(format!("instruction {other:#04x} does not belong in one")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        match self.program.split_at_checked(count) {
            Some((taken, rest)) => {
                self.program = rest;
                Ok(taken)
            }
            None => error("the file is cut short"),
        }
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn little_endian(&mut self, length: usize) -> Result<(), Error> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        // Longer ones exist (the older format's magic number), but no size or offset is: keep the low part.
        let kept = length.min(8);
        wide[..kept].copy_from_slice(&bytes[..kept]);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, Error> {
        let end = self.program.iter().position(|&byte| byte == b'\n');
        let Some(end) = end else { return error("the file is cut short") };
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).or_else(|_| error("a name is not UTF-8"))
    }

    fn pop(&mut self) -> Result<Value, Error> {
        self.stack.pop().map_or_else(|| error("the stack is empty"), Ok)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Error> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark));
        let Some(mark) = mark else { return error("a mark is missing") };
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), Error> {
        let depth = items.iter().map(nesting).max().unwrap_or(0);
        if depth >= MAX_NESTING {
            return error("tuples are nested too deeply");
        }
        self.stack.push(Value::Tuple(items.into(), depth + 1));
        Ok(())
    }

    fn insert(&mut self, items: Vec<Value>) -> Result<(), Error> {
        let Some(Value::Dict(entries)) = self.stack.last_mut() else { return error("items for what is no dict") };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            if nesting(&value) >= MAX_NESTING {
                return error("dicts are nested too deeply; save the state dict alone, not a whole checkpoint");
            }
            entries.push((key, value));
        }
        Ok(())
    }

    fn remember(&mut self, long: bool) -> Result<(), Error> {
        let slot = if long { self.u32()? } else { self.take(1)?[0].into() };
        match self.stack.last() {
            // Only immutable values are ever recalled by a state dict; a copy of a dict would be a stale one.
            Some(Value::Dict(_)) => {}
            Some(value) => drop(self.memo.insert(slot, value.clone())),
            None => return error("nothing to remember"),
        }
        Ok(())
    }

    fn recall(&mut self, long: bool) -> Result<(), Error> {
        let slot = if long { self.u32()? } else { self.take(1)?[0].into() };
        match self.memo.get(&slot) {
            Some(value) => self.stack.push(value.clone()),
            None => return error("something is recalled that was never remembered"),
        }
        Ok(())
    }
}

/// Dicts and tuples within each other. (A state dict's own `_metadata` has two levels.)
fn nesting(value: &Value) -> u8 {
    match value {
        Value::Tuple(_, depth) => *depth,
        Value::Dict(entries) => 1 + entries.iter().map(|(_, value)| nesting(value)).max().unwrap_or(0),
        _ => 0,
    }
}

/// `('storage', class, key, location, numel[, view])`
fn storage(id: &Value) -> Result<Value, Error> {
    if let Value::Tuple(parts, _) = id
        && let [Value::Text(kind), Value::Global(class), Value::Text(key), ..] = &**parts
        && **kind == *"storage"
    {
        let Some((element, element_bytes)) = Element::of_storage(class) else {
            return error(format!("numbers of kind {class} are not supported"));
        };
        return Ok(Value::Storage(Rc::new(Storage { element, element_bytes, key: key.to_string() })));
    }
    error("a persistent object that is no storage")
}

/// What a permitted function call stands for.
fn describe(function: &Value, arguments: &Value) -> Result<Value, Error> {
    let (Value::Global(name), Value::Tuple(arguments, _)) = (function, arguments) else {
        return error("a call of what is no function");
    };
    match (&**name, &**arguments) {
        ("collections OrderedDict", []) => Ok(Value::Dict(Vec::new())),
        ("torch._utils _rebuild_parameter", [Value::Tensor(view), ..]) => Ok(Value::Tensor(view.clone())),
        (
            "torch._utils _rebuild_tensor_v2",
            [Value::Storage(storage), Value::Int(offset), Value::Tuple(shape, _), Value::Tuple(strides, _), ..],
        ) => {
            let (shape, strides) = (integers(shape)?, integers(strides)?);
            if !is_contiguous(&shape, &strides) {
                return error("a tensor is not contiguous; call .contiguous() before saving");
            }
            let Ok(offset) = usize::try_from(*offset) else { return error("a negative offset") };
            Ok(Value::Tensor(Rc::new(View { storage: Storage::clone(storage), offset, shape })))
        }
        _ => error(format!("it calls {name}")),
    }
}

fn integers(values: &[Value]) -> Result<Vec<i64>, Error> {
    if values.len() > MAX_RANK {
        return error("a tensor has too many sides");
    }
    let integer = |value: &Value| match value {
        Value::Int(integer) => Ok(*integer),
        _ => error("a size is not a number"),
    };
    values.iter().map(integer).collect()
}

fn is_contiguous(shape: &[i64], strides: &[i64]) -> bool {
    let mut expected = 1_i64;
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(&side, &stride)| {
            let fits = side <= 1 || stride == expected;
            expected = expected.saturating_mul(side.max(1));
            fits
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by torch itself; see `tests/data/make.py`.
    const ORDERED: &[u8] = include_bytes!("../../tests/data/ordered.pth");
    const PLAIN: &[u8] = include_bytes!("../../tests/data/plain.pth");
    const LEGACY: &[u8] = include_bytes!("../../tests/data/legacy.pth");
    const CHECKPOINT: &[u8] = include_bytes!("../../tests/data/checkpoint.pth");
    const STRIDED: &[u8] = include_bytes!("../../tests/data/strided.pth");

    fn singles(stored: &Stored) -> Vec<f32> {
        stored.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
    }

    #[test]
    fn every_layout_that_torch_writes_is_read() {
        for (name, file) in [("OrderedDict", ORDERED), ("dict", PLAIN), ("older format", LEGACY)] {
            let read = read(file).unwrap_or_else(|error| panic!("{name}: {error}"));
            let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["single", "half", "bfloat", "counter", "tail"], "{name}");
            assert_eq!(read[0].1.shape, [2, 2]);
            assert_eq!(singles(&read[0].1), [1.0, -2.5, 3.25, 0.0]);
            assert_eq!(read[1].1, Stored { shape: vec![2], element: Element::F16, data: vec![0x00, 0x38, 0x00, 0xb4] });
            assert_eq!(
                read[2].1,
                Stored { shape: vec![2], element: Element::Bf16, data: vec![0x00, 0x40, 0x00, 0xc1] }
            );
            assert_eq!((read[3].1.element, read[3].1.shape.len()), (Element::Other, 0));
            assert_eq!(singles(&read[4].1), [4.0, 5.0], "a view into a larger storage");
        }
    }

    #[test]
    fn other_objects_are_refused_with_a_hint() {
        let message = |file| read(file).expect_err("refused").to_string();
        assert!(message(CHECKPOINT).contains("checkpoint"), "{}", message(CHECKPOINT));
        assert!(message(STRIDED).contains("contiguous"), "{}", message(STRIDED));
        assert!(message(b"hello").contains("neither"), "{}", message(b"hello"));
    }

    #[test]
    fn a_call_of_anything_else_is_refused() {
        let program = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.";
        let error = Machine::new(program).run().expect_err("refused").to_string();
        assert!(error.contains("os system"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors_not_panics() {
        for file in [ORDERED, LEGACY] {
            for length in 0..file.len() {
                let _either = read(&file[..length]);
            }
            for index in 0..file.len() {
                let mut damaged = file.to_vec();
                damaged[index] ^= 0x5a;
                let _either = read(&damaged);
            }
        }
        let tuples = [b"N".to_vec(), b"\x85".repeat(100_000), b".".to_vec()].concat();
        // {None: ({None: (…,)},)}
        let alternating = [b"}N".repeat(100_000), b"N".to_vec(), b"s\x85".repeat(100_000), b".".to_vec()].concat();
        for nested in [tuples, alternating] {
            assert!(Machine::new(&nested).run().expect_err("refused").to_string().contains("deeply"));
        }
    }

    #[test]
    fn a_small_file_does_not_become_a_large_model() {
        let storage = Rc::new(Storage { element: Element::F32, element_bytes: 4, key: "0".into() });
        let view = |_| {
            let view = View { storage: Storage::clone(&storage), offset: 0, shape: vec![25] };
            (String::new(), view)
        };
        let storages = HashMap::from([("0".to_owned(), vec![0; 100])]);
        assert_eq!(gather((0..4).map(view).collect(), &storages).expect("shared four times").len(), 4);
        assert!(gather((0..5).map(view).collect(), &storages).is_err());
        let sides = vec![Value::Int(1); MAX_RANK + 1];
        assert!(integers(&sides[1..]).is_ok() && integers(&sides).is_err());
    }
}
