//! Reads the file that `torch.save(model.state_dict())` writes: the zip format, and the older format that some of
//! torchvision's published files have.
//!
//! A pickle is a program for a stack machine. This reader knows only the instructions that a state dict needs, and
//! accepts only the functions that describe tensors, none of which is ever called. Anything else is an error.
//!
//! Sources: CPython's `Lib/pickletools.py` (instructions), PyTorch's `torch/serialization.py` (both formats).

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::rc::Rc;

/// The names of the pickle instructions that a state dict needs.
#[rustfmt::skip]
mod opcode {
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const STOP: u8 = b'.';
    pub(super) const MARK: u8 = b'(';
    pub(super) const NONE: u8 = b'N';
    pub(super) const NEWTRUE: u8 = 0x88;
    pub(super) const NEWFALSE: u8 = 0x89;
    pub(super) const BININT: u8 = b'J';
    pub(super) const BININT1: u8 = b'K';
    pub(super) const BININT2: u8 = b'M';
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const BINUNICODE: u8 = b'X';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE3: u8 = 0x87;
    pub(super) const EMPTY_LIST: u8 = b']';
    pub(super) const APPENDS: u8 = b'e';
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const SETITEM: u8 = b's';
    pub(super) const SETITEMS: u8 = b'u';
    pub(super) const BINPUT: u8 = b'q';
    pub(super) const LONG_BINPUT: u8 = b'r';
    pub(super) const BINGET: u8 = b'h';
    pub(super) const LONG_BINGET: u8 = b'j';
    pub(super) const BINPERSID: u8 = b'Q';
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const BUILD: u8 = b'b';
}

/// How deep dicts and tuples may be nested. Dropping a value nested without limit would exhaust the stack.
const MAX_NESTING: u8 = 8;

/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Most bytes of all tensors together, in multiples of the bytes of all storages. Tensors may share a storage, but a
/// small file must not become a large model.
const MAX_SHARING: usize = 4;

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredTensor {
    /// Sizes, outermost first.
    pub shape: Vec<i64>,
    /// The type of the numbers in `data`.
    pub element: Element,
    /// Little-endian numbers in row-major order.
    pub data: Vec<u8>,
}

/// The type of the numbers in a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper 16 bits of f32.
    Bf16,
    /// Integers, booleans and f64. No weight has such a type; counters do.
    Other,
}

impl Element {
    /// The type and the bytes of an element of one of torch's storage classes, which is named by its module and its
    /// name.
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
/// When the file has neither format, holds other objects, or is cut short.
pub(super) fn read(file: &[u8]) -> Result<Vec<(String, StoredTensor)>, Error> {
    if file.starts_with(b"PK") { read_zip(file) } else { read_legacy(file) }
}

/// Reads the zip format: the entry `data.pkl` is the state dict, and each entry `data/KEY` is a storage.
fn read_zip(file: &[u8]) -> Result<Vec<(String, StoredTensor)>, Error> {
    let mut archive =
        zip::ZipArchive::new(Cursor::new(file)).or_else(|cause| error(format!("bad zip file: {cause}")))?;
    let root = archive.file_names().flatten().find_map(|name| name.strip_suffix("data.pkl").map(str::to_owned));
    let Some(root) = root else { return error("the zip file has no data.pkl") };
    // Entries may overlap, so the same bytes could be read many times over.
    let mut left = file.len() as u64;
    let mut entry = |name: &str| -> Result<Vec<u8>, Error> {
        let entry = archive.by_name(&format!("{root}{name}")).or_else(|cause| error(format!("{name}: {cause}")))?;
        // torch.save stores without compression, so no entry unpacks to more than the file itself.
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
    let views = named_views(Unpickler::new(&pickle).run()?)?;
    let mut storages = HashMap::new();
    for (_, view) in &views {
        if !storages.contains_key(&view.storage.key) {
            storages.insert(view.storage.key.clone(), entry(&format!("data/{}", view.storage.key))?);
        }
    }
    copy_tensors(views, &storages)
}

/// Reads the older format: five pickles (magic number, protocol, system, the state dict, storage keys), then each
/// storage as its length in elements (u64) and its numbers.
fn read_legacy(file: &[u8]) -> Result<Vec<(String, StoredTensor)>, Error> {
    const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    if file.get(4..14) != Some(&MAGIC[..]) {
        return error("neither a zip file nor torch's older format");
    }
    let mut unpickler = Unpickler::new(file);
    for _ in 0..3 {
        unpickler.run()?;
    }
    let views = named_views(unpickler.run()?)?;
    let Value::List(keys) = unpickler.run()? else { return error("the list of storages is missing") };
    let sizes: HashMap<&str, usize> =
        views.iter().map(|(_, view)| (view.storage.key.as_str(), view.storage.element_bytes)).collect();
    let mut storages = HashMap::new();
    for key in keys.iter() {
        let Value::Text(key) = key else { return error("a storage's key is not text") };
        let length = u64::from_le_bytes(unpickler.take(8)?.try_into().expect("eight bytes"));
        let element_bytes = sizes.get(&**key).copied().unwrap_or(1);
        let bytes = usize::try_from(length).ok().and_then(|length| length.checked_mul(element_bytes));
        let Some(bytes) = bytes else { return error("a storage's length is absurd") };
        storages.insert(key.to_string(), unpickler.take(bytes)?.to_vec());
    }
    copy_tensors(views, &storages)
}

/// The tensors of an unpickled state dict, by name.
fn named_views(value: Value) -> Result<Vec<(String, View)>, Error> {
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

/// Copies each tensor's numbers out of its storage.
fn copy_tensors(
    views: Vec<(String, View)>,
    storages: &HashMap<String, Vec<u8>>,
) -> Result<Vec<(String, StoredTensor)>, Error> {
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
                    Ok((name, StoredTensor { shape: view.shape, element: view.storage.element, data }))
                }
                None => error(format!("{name} reaches past the end of its numbers, or the file is cut short")),
            }
        })
        .collect()
}

/// A sequence of numbers that tensors are views of. Its bytes are found by `key`.
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
    /// Elements before the tensor.
    offset: usize,
    shape: Vec<i64>,
}

impl View {
    /// The range of the storage's bytes; `None` if it overflows.
    fn bytes(&self) -> Option<std::ops::Range<usize>> {
        let count = self.shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side.try_into().ok()?))?;
        let start = self.offset.checked_mul(self.storage.element_bytes)?;
        Some(start..start.checked_add(count.checked_mul(self.storage.element_bytes)?)?)
    }
}

/// A value on the stack of the machine.
#[derive(Debug, Clone)]
enum Value {
    Mark,
    None,
    Int(i64),
    Text(Rc<str>),
    /// The name of a class or function: its module, a space, its name.
    Global(Rc<str>),
    /// The items, and how deep tuples and dicts are nested in the tuple, itself included.
    Tuple(Rc<[Value]>, u8),
    List(Rc<[Value]>),
    Dict(Vec<(Value, Value)>),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
}

/// The stack machine that a pickle is written for.
struct Unpickler<'a> {
    /// The instructions that have not been read yet.
    program: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl<'a> Unpickler<'a> {
    fn new(program: &'a [u8]) -> Self {
        Self { program, stack: Vec::new(), memo: HashMap::new() }
    }

    /// Runs one pickle to its end and returns its object. `program` is then what follows the pickle.
    fn run(&mut self) -> Result<Value, Error> {
        self.stack.clear();
        self.memo.clear();
        loop {
            match self.byte()? {
                opcode::PROTO => drop(self.byte()?),
                opcode::STOP => return self.pop(),
                instruction => self.execute(instruction)?,
            }
        }
    }

    /// Executes one instruction.
    fn execute(&mut self, instruction: u8) -> Result<(), Error> {
        match instruction {
            opcode::MARK => self.push(Value::Mark),
            opcode::NONE => self.push(Value::None),
            opcode::NEWTRUE => self.push(Value::Int(1)),
            opcode::NEWFALSE => self.push(Value::Int(0)),
            opcode::BININT => self.push_signed(4),
            opcode::BININT1 => self.push_unsigned(1),
            opcode::BININT2 => self.push_unsigned(2),
            opcode::LONG1 => self.byte().and_then(|length| self.push_signed(length.into())),
            opcode::BINUNICODE => self.push_text(),
            opcode::GLOBAL => {
                let name = format!("{} {}", self.line()?, self.line()?);
                self.push(Value::Global(name.into()))
            }
            opcode::EMPTY_TUPLE => self.push_tuple(Vec::new()),
            opcode::TUPLE => self.pop_to_mark().and_then(|items| self.push_tuple(items)),
            opcode::TUPLE1..=opcode::TUPLE3 => {
                let items = self.pop_items(usize::from(instruction - opcode::TUPLE1) + 1)?;
                self.push_tuple(items)
            }
            opcode::EMPTY_LIST => self.push(Value::List(Rc::new([]))),
            opcode::APPENDS => self.append_texts(),
            opcode::EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            opcode::SETITEM => self.pop_items(2).and_then(|item| self.insert(item)),
            opcode::SETITEMS => self.pop_to_mark().and_then(|items| self.insert(items)),
            opcode::BINPUT => self.byte().and_then(|key| self.memorise(key.into())),
            opcode::LONG_BINPUT => self.u32().and_then(|key| self.memorise(key)),
            opcode::BINGET => self.byte().and_then(|key| self.push_memorised(key.into())),
            opcode::LONG_BINGET => self.u32().and_then(|key| self.push_memorised(key)),
            opcode::BINPERSID => {
                let storage = storage(&self.pop()?)?;
                self.push(storage)
            }
            opcode::REDUCE => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.push(reduce(&function, &arguments)?)
            }
            // Sets attributes of the dict (`_metadata`), which classification does not need.
            opcode::BUILD => self.pop().map(drop),
            other => error(format!("instruction {other:#04x} does not belong in one")),
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

    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn line(&mut self) -> Result<&'a str, Error> {
        let end = self.program.iter().position(|&byte| byte == b'\n');
        let Some(end) = end else { return error("the file is cut short") };
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).or_else(|_| error("a name is not UTF-8"))
    }

    fn push(&mut self, value: Value) -> Result<(), Error> {
        self.stack.push(value);
        Ok(())
    }

    /// Pushes a little-endian number of `length` bytes in two's complement. Of a longer number than eight bytes only
    /// the low eight are kept: the older format's magic number is one, but no size or offset is.
    fn push_signed(&mut self, length: usize) -> Result<(), Error> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let kept = length.min(8);
        wide[..kept].copy_from_slice(&bytes[..kept]);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    /// Pushes a little-endian number of one or two bytes without a sign.
    fn push_unsigned(&mut self, length: usize) -> Result<(), Error> {
        let bytes = self.take(length)?;
        self.push(Value::Int(bytes.iter().rev().fold(0, |high, &byte| high << 8 | i64::from(byte))))
    }

    fn push_text(&mut self) -> Result<(), Error> {
        let length = self.u32()? as usize;
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => self.push(Value::Text(text.into())),
            Err(_) => error("text is not UTF-8"),
        }
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), Error> {
        let depth = items.iter().map(nesting).max().unwrap_or(0);
        if depth >= MAX_NESTING {
            return error("tuples are nested too deeply");
        }
        self.push(Value::Tuple(items.into(), depth + 1))
    }

    fn pop(&mut self) -> Result<Value, Error> {
        self.stack.pop().map_or_else(|| error("the stack is empty"), Ok)
    }

    fn pop_items(&mut self, count: usize) -> Result<Vec<Value>, Error> {
        match self.stack.len().checked_sub(count) {
            Some(first) => Ok(self.stack.split_off(first)),
            None => error("the stack is too short"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Error> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark));
        let Some(mark) = mark else { return error("a mark is missing") };
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    /// Replaces an empty list by one of the texts above it: the keys of storages.
    fn append_texts(&mut self) -> Result<(), Error> {
        let items = self.pop_to_mark()?;
        match self.pop()? {
            Value::List(list) if list.is_empty() && items.iter().all(|item| matches!(item, Value::Text(_))) => {
                self.push(Value::List(items.into()))
            }
            _ => error("a list of other things than text"),
        }
    }

    /// Inserts `items`, keys and values in turns, into the dict on top of the stack.
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

    /// Stores the value on top of the stack in the memo.
    fn memorise(&mut self, key: u32) -> Result<(), Error> {
        match self.stack.last() {
            // A state dict reads only immutable values from the memo, and a copy of a dict would miss later entries.
            Some(Value::Dict(_)) => {}
            Some(value) => drop(self.memo.insert(key, value.clone())),
            None => return error("the stack is empty"),
        }
        Ok(())
    }

    fn push_memorised(&mut self, key: u32) -> Result<(), Error> {
        match self.memo.get(&key).cloned() {
            Some(value) => self.push(value),
            None => error("a value is read from the memo that was never stored there"),
        }
    }
}

/// How deep tuples and dicts are nested in a value. A state dict's own `_metadata` has two levels.
fn nesting(value: &Value) -> u8 {
    match value {
        Value::Tuple(_, depth) => *depth,
        Value::Dict(entries) => 1 + entries.iter().map(|(_, value)| nesting(value)).max().unwrap_or(0),
        _ => 0,
    }
}

/// The storage that a persistent id, `('storage', class, key, location, numel[, view])`, stands for.
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

/// The value that a call of one of the permitted functions stands for.
fn reduce(function: &Value, arguments: &Value) -> Result<Value, Error> {
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

/// The sizes or strides of a tensor.
fn integers(values: &[Value]) -> Result<Vec<i64>, Error> {
    if values.len() > MAX_RANK {
        return error("a tensor has too many dimensions");
    }
    let integer = |value: &Value| match value {
        Value::Int(integer) => Ok(*integer),
        _ => error("a size is not a number"),
    };
    values.iter().map(integer).collect()
}

/// Whether a tensor is contiguous in row-major order. Strides of dimensions of size 1 do not matter.
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

    /// Files that torch has written; see `tests/data/make.py`.
    const ORDERED: &[u8] = include_bytes!("../../tests/data/ordered.pth");
    const PLAIN: &[u8] = include_bytes!("../../tests/data/plain.pth");
    const LEGACY: &[u8] = include_bytes!("../../tests/data/legacy.pth");
    const CHECKPOINT: &[u8] = include_bytes!("../../tests/data/checkpoint.pth");
    const STRIDED: &[u8] = include_bytes!("../../tests/data/strided.pth");

    fn singles(stored: &StoredTensor) -> Vec<f32> {
        stored.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
    }

    #[test]
    fn every_format_that_torch_writes_is_read() {
        for (name, file) in [("OrderedDict", ORDERED), ("dict", PLAIN), ("older format", LEGACY)] {
            let read = read(file).unwrap_or_else(|error| panic!("{name}: {error}"));
            let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["single", "half", "bfloat", "counter", "tail"], "{name}");
            assert_eq!(read[0].1.shape, [2, 2]);
            assert_eq!(singles(&read[0].1), [1.0, -2.5, 3.25, 0.0]);
            assert_eq!(
                read[1].1,
                StoredTensor { shape: vec![2], element: Element::F16, data: vec![0x00, 0x38, 0x00, 0xb4] }
            );
            assert_eq!(
                read[2].1,
                StoredTensor { shape: vec![2], element: Element::Bf16, data: vec![0x00, 0x40, 0x00, 0xc1] }
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
    fn a_call_of_any_other_function_is_refused() {
        let program = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.";
        let error = Unpickler::new(program).run().expect_err("refused").to_string();
        assert!(error.contains("os system"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors_not_panics() {
        for file in [ORDERED, LEGACY] {
            for length in 0..file.len() {
                let _result_or_error = read(&file[..length]);
            }
            for index in 0..file.len() {
                let mut damaged = file.to_vec();
                damaged[index] ^= 0x5a;
                let _result_or_error = read(&damaged);
            }
        }
        let tuples = [b"N".to_vec(), b"\x85".repeat(100_000), b".".to_vec()].concat();
        // {None: ({None: (…,)},)}
        let alternating = [b"}N".repeat(100_000), b"N".to_vec(), b"s\x85".repeat(100_000), b".".to_vec()].concat();
        for nested in [tuples, alternating] {
            assert!(Unpickler::new(&nested).run().expect_err("refused").to_string().contains("deeply"));
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
        assert_eq!(copy_tensors((0..4).map(view).collect(), &storages).expect("shared four times").len(), 4);
        assert!(copy_tensors((0..5).map(view).collect(), &storages).is_err());
        let sizes = vec![Value::Int(1); MAX_RANK + 1];
        assert!(integers(&sizes[1..]).is_ok() && integers(&sizes).is_err());
    }
}
