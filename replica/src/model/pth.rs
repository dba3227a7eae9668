//! Reads files that `torch.save(model.state_dict())` has written: the zip format, and the older format of some files
//! that torchvision has published.
//!
//! A pickle is a program for a stack machine. This reader knows only the instructions that a state dict needs. It
//! accepts only the functions that describe tensors, and calls none of them. Anything else is an error.
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

/// How deep dicts and tuples may be nested. Dropping a value that is nested without limit would exhaust the stack.
const MAX_NESTING: u8 = 8;

/// Largest number of dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Largest size of all tensors together, as a multiple of the size of all storages. Tensors may share a storage, but a
/// small file must not become a large model.
const MAX_SHARING: usize = 4;

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredTensor {
    /// The length of each dimension, outermost first.
    pub shape: Vec<i64>,
    /// The type of the numbers in `data`.
    pub element: ElementType,
    /// Little-endian numbers in row-major order.
    pub data: Vec<u8>,
}

/// The type of the numbers in a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16: the upper 16 bits of f32.
    Bf16,
    /// An integer, a boolean or f64. Weights have none of these types; counters have.
    Other,
}

impl ElementType {
    /// The type of an element in one of torch's storage classes, and the bytes of an element. `class` is the module, a
    /// space and the name of the class.
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
/// If the file has neither format, holds other objects, or is cut short.
pub(super) fn read(file: &[u8]) -> Result<Vec<(String, StoredTensor)>, Error> {
    if file.starts_with(b"PK") { read_zip(file) } else { read_legacy(file) }
}

/// Reads the zip format: the entry `data.pkl` is the state dict, and each entry `data/KEY` is a storage.
fn read_zip(file: &[u8]) -> Result<Vec<(String, StoredTensor)>, Error> {
    let mut archive =
        zip::ZipArchive::new(Cursor::new(file)).or_else(|cause| error(format!("damaged zip file: {cause}")))?;
    let root = archive.file_names().flatten().find_map(|name| name.strip_suffix("data.pkl").map(str::to_owned));
    let Some(root) = root else { return error("the zip file has no data.pkl") };
    // Entries may overlap. Without this limit, the same bytes could be read any number of times.
    let mut left = file.len() as u64;
    let mut entry = |name: &str| -> Result<Vec<u8>, Error> {
        let entry =
            archive.by_name(&format!("{root}{name}")).or_else(|cause| error(format!("entry {name}: {cause}")))?;
        // torch.save does not compress. A compressed entry could unpack to much more than the file.
        if entry.compression() != zip::CompressionMethod::Stored {
            return error(format!("entry {name} is compressed"));
        }
        let mut bytes = Vec::new();
        left = match left.checked_sub(entry.size()) {
            Some(left) => left,
            None => return error("the entries of the zip file are larger than the file"),
        };
        let size = entry.size();
        entry.take(size).read_to_end(&mut bytes).or_else(|cause| error(format!("entry {name}: {cause}")))?;
        Ok(bytes)
    };
    if let Ok(order) = entry("byteorder")
        && order != b"little"
    {
        return error("the numbers are big-endian; save the file on a little-endian machine");
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

/// Reads the older format: five pickles (magic number, protocol, system, state dict, keys of the storages), and then
/// each storage, as its length in elements (u64) and its numbers.
fn read_legacy(file: &[u8]) -> Result<Vec<(String, StoredTensor)>, Error> {
    const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    if file.get(4..14) != Some(&MAGIC[..]) {
        return error("the file has neither the zip format nor torch's older format");
    }
    let mut unpickler = Unpickler::new(file);
    for _ in 0..3 {
        unpickler.run()?;
    }
    let views = named_views(unpickler.run()?)?;
    let PickleValue::List(keys) = unpickler.run()? else { return error("the list of the keys of storages is missing") };
    let sizes: HashMap<&str, usize> =
        views.iter().map(|(_, view)| (view.storage.key.as_str(), view.storage.element_bytes)).collect();
    let mut storages = HashMap::new();
    for key in keys.iter() {
        let PickleValue::Text(key) = key else { return error("a storage's key is not text") };
        let length = u64::from_le_bytes(unpickler.take(8)?.try_into().expect("`take(8)` returns eight bytes"));
        let element_bytes = sizes.get(&**key).copied().unwrap_or(1);
        let bytes = usize::try_from(length).ok().and_then(|length| length.checked_mul(element_bytes));
        let Some(bytes) = bytes else { return error(format!("the length of storage {key} is too large for a file")) };
        storages.insert(key.to_string(), unpickler.take(bytes)?.to_vec());
    }
    copy_tensors(views, &storages)
}

/// The names and tensors of an unpickled state dict.
fn named_views(value: PickleValue) -> Result<Vec<(String, View)>, Error> {
    let PickleValue::Dict(entries) = value else { return error("the file's object is not a dict") };
    entries
        .into_iter()
        .map(|(key, value)| match (key, value) {
            (PickleValue::Text(name), PickleValue::Tensor(view)) => Ok((name.to_string(), View::clone(&view))),
            (PickleValue::Text(name), _) => {
                error(format!("{name} is not a tensor; save the state dict alone, not a whole checkpoint"))
            }
            _ => error("the name of a tensor is not text"),
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
                Some(data) if data.len() > left => {
                    error(format!("its tensors together are more than {MAX_SHARING} times as large as its numbers"))
                }
                Some(data) => {
                    left -= data.len();
                    let data = data.to_vec();
                    Ok((name, StoredTensor { shape: view.shape, element: view.storage.element, data }))
                }
                None => error(format!("tensor {name} reaches past the end of its storage, or the file is cut short")),
            }
        })
        .collect()
}

/// A sequence of numbers in the file. A tensor is a view of such a sequence. The bytes are found by `key`.
#[derive(Debug, Clone)]
struct Storage {
    element: ElementType,
    element_bytes: usize,
    key: String,
}

/// A contiguous tensor within a storage.
#[derive(Debug, Clone)]
struct View {
    storage: Storage,
    /// Number of elements of the storage before the tensor.
    offset: usize,
    shape: Vec<i64>,
}

impl View {
    /// The tensor's range in the bytes of the storage; `None` if the range overflows.
    fn bytes(&self) -> Option<std::ops::Range<usize>> {
        let count = self.shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side.try_into().ok()?))?;
        let start = self.offset.checked_mul(self.storage.element_bytes)?;
        Some(start..start.checked_add(count.checked_mul(self.storage.element_bytes)?)?)
    }
}

/// A value on the stack of the machine that runs a pickle.
#[derive(Debug, Clone)]
enum PickleValue {
    Mark,
    None,
    Int(i64),
    Text(Rc<str>),
    /// A class or function: its module, a space and its name.
    Global(Rc<str>),
    /// The items, and the levels of nested tuples and dicts, of which the tuple itself is one.
    Tuple(Rc<[PickleValue]>, u8),
    List(Rc<[PickleValue]>),
    Dict(Vec<(PickleValue, PickleValue)>),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
}

/// The stack machine that a pickle is written for.
struct Unpickler<'a> {
    /// The instructions that have not been read yet.
    program: &'a [u8],
    stack: Vec<PickleValue>,
    memo: HashMap<u32, PickleValue>,
}

impl<'a> Unpickler<'a> {
    fn new(program: &'a [u8]) -> Self {
        Self { program, stack: Vec::new(), memo: HashMap::new() }
    }

    /// Runs one pickle to its end and returns its object. Afterwards `program` begins with the bytes after the pickle.
    fn run(&mut self) -> Result<PickleValue, Error> {
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
            opcode::MARK => self.push(PickleValue::Mark),
            opcode::NONE => self.push(PickleValue::None),
            opcode::NEWTRUE => self.push(PickleValue::Int(1)),
            opcode::NEWFALSE => self.push(PickleValue::Int(0)),
            opcode::BININT => self.push_signed(4),
            opcode::BININT1 => self.push_unsigned(1),
            opcode::BININT2 => self.push_unsigned(2),
            opcode::LONG1 => self.byte().and_then(|length| self.push_signed(length.into())),
            opcode::BINUNICODE => self.push_text(),
            opcode::GLOBAL => {
                let name = format!("{} {}", self.line()?, self.line()?);
                self.push(PickleValue::Global(name.into()))
            }
            opcode::EMPTY_TUPLE => self.push_tuple(Vec::new()),
            opcode::TUPLE => self.pop_to_mark().and_then(|items| self.push_tuple(items)),
            opcode::TUPLE1..=opcode::TUPLE3 => {
                let items = self.pop_items(usize::from(instruction - opcode::TUPLE1) + 1)?;
                self.push_tuple(items)
            }
            opcode::EMPTY_LIST => self.push(PickleValue::List(Rc::new([]))),
            opcode::APPENDS => self.append_texts(),
            opcode::EMPTY_DICT => self.push(PickleValue::Dict(Vec::new())),
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
            // This instruction sets attributes of the dict (`_metadata`), which classification does not need.
            opcode::BUILD => self.pop().map(drop),
            other => error(format!("a state dict does not need instruction {other:#04x}")),
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
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("`take(4)` returns four bytes")))
    }

    fn line(&mut self) -> Result<&'a str, Error> {
        let end = self.program.iter().position(|&byte| byte == b'\n');
        let Some(end) = end else { return error("the file is cut short") };
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).or_else(|_| error("the name of a class or function is not UTF-8"))
    }

    fn push(&mut self, value: PickleValue) -> Result<(), Error> {
        self.stack.push(value);
        Ok(())
    }

    /// Pushes a little-endian number of `length` bytes in two's complement. Of a number with more than eight bytes,
    /// only the low eight are kept. The magic number of the older format has more; sizes and offsets do not.
    fn push_signed(&mut self, length: usize) -> Result<(), Error> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let kept = length.min(8);
        wide[..kept].copy_from_slice(&bytes[..kept]);
        self.push(PickleValue::Int(i64::from_le_bytes(wide)))
    }

    /// Pushes a little-endian number of one or two bytes without a sign.
    fn push_unsigned(&mut self, length: usize) -> Result<(), Error> {
        let bytes = self.take(length)?;
        self.push(PickleValue::Int(bytes.iter().rev().fold(0, |high, &byte| high << 8 | i64::from(byte))))
    }

    fn push_text(&mut self) -> Result<(), Error> {
        let length = self.u32()? as usize;
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => self.push(PickleValue::Text(text.into())),
            Err(_) => error("a text is not UTF-8"),
        }
    }

    fn push_tuple(&mut self, items: Vec<PickleValue>) -> Result<(), Error> {
        let depth = items.iter().map(nesting).max().unwrap_or(0);
        if depth >= MAX_NESTING {
            return error("tuples are nested too deeply");
        }
        self.push(PickleValue::Tuple(items.into(), depth + 1))
    }

    fn pop(&mut self) -> Result<PickleValue, Error> {
        self.stack.pop().map_or_else(|| error("an instruction needs a value, but the stack is empty"), Ok)
    }

    fn pop_items(&mut self, count: usize) -> Result<Vec<PickleValue>, Error> {
        match self.stack.len().checked_sub(count) {
            Some(first) => Ok(self.stack.split_off(first)),
            None => error("an instruction needs more values than the stack has"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<PickleValue>, Error> {
        let mark = self.stack.iter().rposition(|value| matches!(value, PickleValue::Mark));
        let Some(mark) = mark else { return error("an instruction needs a mark, but the stack has none") };
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    /// Replaces the empty list below the last mark by a list of the texts above the mark: the keys of the storages.
    fn append_texts(&mut self) -> Result<(), Error> {
        let items = self.pop_to_mark()?;
        match self.pop()? {
            PickleValue::List(list)
                if list.is_empty() && items.iter().all(|item| matches!(item, PickleValue::Text(_))) =>
            {
                self.push(PickleValue::List(items.into()))
            }
            _ => error("a list has items that are not text"),
        }
    }

    /// Inserts `items`, which alternate between key and value, into the dict on top of the stack.
    fn insert(&mut self, items: Vec<PickleValue>) -> Result<(), Error> {
        let Some(PickleValue::Dict(entries)) = self.stack.last_mut() else {
            return error("items are inserted into an object that is no dict");
        };
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
            Some(PickleValue::Dict(_)) => {}
            Some(value) => drop(self.memo.insert(key, value.clone())),
            None => return error("an instruction stores a value in the memo, but the stack is empty"),
        }
        Ok(())
    }

    fn push_memorised(&mut self, key: u32) -> Result<(), Error> {
        match self.memo.get(&key).cloned() {
            Some(value) => self.push(value),
            None => error(format!("value {key} is read from the memo, but was never stored there")),
        }
    }
}

/// How deep tuples and dicts are nested in a value. The `_metadata` of a state dict has two levels.
fn nesting(value: &PickleValue) -> u8 {
    match value {
        PickleValue::Tuple(_, depth) => *depth,
        PickleValue::Dict(entries) => 1 + entries.iter().map(|(_, value)| nesting(value)).max().unwrap_or(0),
        _ => 0,
    }
}

/// The storage that a persistent id, `('storage', class, key, location, numel[, view])`, stands for.
fn storage(id: &PickleValue) -> Result<PickleValue, Error> {
    if let PickleValue::Tuple(parts, _) = id
        && let [PickleValue::Text(kind), PickleValue::Global(class), PickleValue::Text(key), ..] = &**parts
        && **kind == *"storage"
    {
        let Some((element, element_bytes)) = ElementType::of_storage(class) else {
            return error(format!("numbers in a {class} are not supported"));
        };
        return Ok(PickleValue::Storage(Rc::new(Storage { element, element_bytes, key: key.to_string() })));
    }
    error("a persistent object is no storage")
}

/// The value that a call of a permitted function stands for. The function is not called.
fn reduce(function: &PickleValue, arguments: &PickleValue) -> Result<PickleValue, Error> {
    let (PickleValue::Global(name), PickleValue::Tuple(arguments, _)) = (function, arguments) else {
        return error("an object is called that is no function");
    };
    match (&**name, &**arguments) {
        ("collections OrderedDict", []) => Ok(PickleValue::Dict(Vec::new())),
        ("torch._utils _rebuild_parameter", [PickleValue::Tensor(view), ..]) => Ok(PickleValue::Tensor(view.clone())),
        (
            "torch._utils _rebuild_tensor_v2",
            [
                PickleValue::Storage(storage),
                PickleValue::Int(offset),
                PickleValue::Tuple(shape, _),
                PickleValue::Tuple(strides, _),
                ..,
            ],
        ) => {
            let (shape, strides) = (integers(shape)?, integers(strides)?);
            if !is_contiguous(&shape, &strides) {
                return error("a tensor is not contiguous; call .contiguous() before saving");
            }
            let Ok(offset) = usize::try_from(*offset) else { return error("the offset of a tensor is negative") };
            Ok(PickleValue::Tensor(Rc::new(View { storage: Storage::clone(storage), offset, shape })))
        }
        _ => error(format!("it calls {name}, which a state dict does not need")),
    }
}

/// The sizes or strides of a tensor.
fn integers(values: &[PickleValue]) -> Result<Vec<i64>, Error> {
    if values.len() > MAX_RANK {
        return error(format!("a tensor has {} dimensions, more than {MAX_RANK}", values.len()));
    }
    let integer = |value: &PickleValue| match value {
        PickleValue::Int(integer) => Ok(*integer),
        _ => error("a size or stride of a tensor is no number"),
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

    // torch has written these files; see `tests/data/make.py`.
    const ORDERED: &[u8] = include_bytes!("../../tests/data/ordered.pth");
    const PLAIN: &[u8] = include_bytes!("../../tests/data/plain.pth");
    const LEGACY: &[u8] = include_bytes!("../../tests/data/legacy.pth");
    const CHECKPOINT: &[u8] = include_bytes!("../../tests/data/checkpoint.pth");
    const STRIDED: &[u8] = include_bytes!("../../tests/data/strided.pth");

    fn singles(stored: &StoredTensor) -> Vec<f32> {
        stored
            .data
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("a chunk has four bytes")))
            .collect()
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
                StoredTensor { shape: vec![2], element: ElementType::F16, data: vec![0x00, 0x38, 0x00, 0xb4] }
            );
            assert_eq!(
                read[2].1,
                StoredTensor { shape: vec![2], element: ElementType::Bf16, data: vec![0x00, 0x40, 0x00, 0xc1] }
            );
            assert_eq!((read[3].1.element, read[3].1.shape.len()), (ElementType::Other, 0));
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
    fn damaged_or_deeply_nested_files_do_not_panic() {
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
        // Dicts and tuples in turn: `{None: ({None: (…,)},)}`.
        let alternating = [b"}N".repeat(100_000), b"N".to_vec(), b"s\x85".repeat(100_000), b".".to_vec()].concat();
        for nested in [tuples, alternating] {
            assert!(Unpickler::new(&nested).run().expect_err("refused").to_string().contains("deeply"));
        }
    }

    #[test]
    fn a_small_file_does_not_become_a_large_model() {
        let storage = Rc::new(Storage { element: ElementType::F32, element_bytes: 4, key: "0".into() });
        let view = |_| {
            let view = View { storage: Storage::clone(&storage), offset: 0, shape: vec![25] };
            (String::new(), view)
        };
        let storages = HashMap::from([("0".to_owned(), vec![0; 100])]);
        assert_eq!(copy_tensors((0..4).map(view).collect(), &storages).expect("shared four times").len(), 4);
        assert!(copy_tensors((0..5).map(view).collect(), &storages).is_err());
        let sizes = vec![PickleValue::Int(1); MAX_RANK + 1];
        assert!(integers(&sizes[1..]).is_ok() && integers(&sizes).is_err());
    }
}
