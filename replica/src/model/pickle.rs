//! The stack machine that a pickle is written for, protocols 2 to 5. It builds data and calls nothing: a class or
//! function stays a name, and an object that no state dict needs is kept as the name of its class. Knows nothing of the
//! files that contain pickles.
//!
//! Source: CPython's `Lib/pickletools.py` (instructions).

mod object;
mod opcode;

pub(super) use object::{Global, Object, ObjectId, Value};

use super::stored_tensor::{Storage, View};
use std::collections::HashMap;

/// Largest number of instructions and of copied items of one pickle. It bounds the memory of a hostile pickle: each
/// instruction adds at most some 150 bytes. A checkpoint of a ResNet-152 with the state of its optimizer has 100,000.
const MAX_STEPS: usize = 1 << 20;

/// Why a pickle cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Error(pub(super) String);

fn error<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error(reason.into()))
}

/// The object of one pickle, with all objects that it contains.
pub(super) struct Pickle<'a> {
    /// The value that the pickle stands for.
    pub(super) root: Value<'a>,
    /// The objects that values refer to. Objects may refer to each other in circles.
    objects: Vec<Object<'a>>,
    /// The storages that the pickle refers to, by their keys in the file.
    pub(super) storages: HashMap<&'a str, Storage<'a>>,
    /// Number of bytes of the pickle.
    pub(super) length: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `program`.
    ///
    /// # Errors
    /// If the pickle is cut short, has another protocol than 2 to 5, needs values that are not there, or is too long.
    pub(super) fn read(program: &'a [u8]) -> Result<Self, Error> {
        let mut machine = Machine {
            rest: program,
            steps_left: MAX_STEPS,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            objects: Vec::new(),
            storages: HashMap::new(),
        };
        let root = machine.run()?;
        let length = program.len() - machine.rest.len();
        Ok(Self { root, objects: machine.objects, storages: machine.storages, length })
    }

    /// The object that `value` refers to; `None` for a plain value.
    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(id) => Some(&self.objects[id.0]),
            _ => None,
        }
    }
}

/// The state of the machine.
struct Machine<'a> {
    /// The instructions that have not been read yet.
    rest: &'a [u8],
    /// How many instructions may still be executed, and items copied.
    steps_left: usize,
    stack: Vec<Value<'a>>,
    /// The lengths of the stack at which marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
    storages: HashMap<&'a str, Storage<'a>>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>, Error> {
        loop {
            self.spend(1)?;
            match self.byte()? {
                opcode::STOP => return self.pop(),
                instruction => self.execute(instruction)?,
            }
        }
    }

    fn execute(&mut self, instruction: u8) -> Result<(), Error> {
        match instruction {
            opcode::PROTO => match self.byte()? {
                2..=5 => {}
                other => return error(format!("pickle protocol {other} is unknown; save with protocol 2 to 5")),
            },
            opcode::FRAME => drop(self.take(8)?),
            opcode::MARK => self.marks.push(self.stack.len()),
            opcode::POP if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            opcode::POP => drop(self.pop()?),
            opcode::POP_MARK => drop(self.pop_to_mark()?),
            opcode::DUP => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            opcode::NONE => self.push(Value::Other),
            opcode::NEWTRUE => self.push(Value::Int(1)),
            opcode::NEWFALSE => self.push(Value::Int(0)),
            opcode::BININT => self.push_integer(4, true)?,
            opcode::BININT1 => self.push_integer(1, false)?,
            opcode::BININT2 => self.push_integer(2, false)?,
            opcode::LONG1 => {
                let length = self.byte()?;
                self.push_integer(length.into(), true)?
            }
            opcode::LONG4 => {
                let length = self.length(4)?;
                self.push_integer(length, true)?
            }
            opcode::BINFLOAT => {
                self.take(8)?;
                self.push(Value::Other)
            }
            opcode::SHORT_BINUNICODE | opcode::SHORT_BINSTRING => self.push_text(1)?,
            opcode::BINUNICODE | opcode::BINSTRING => self.push_text(4)?,
            opcode::BINUNICODE8 => self.push_text(8)?,
            opcode::SHORT_BINBYTES => self.push_bytes(1)?,
            opcode::BINBYTES => self.push_bytes(4)?,
            opcode::BINBYTES8 | opcode::BYTEARRAY8 => self.push_bytes(8)?,
            opcode::EMPTY_TUPLE => self.push_object(Object::Sequence(Vec::new())),
            opcode::TUPLE1..=opcode::TUPLE3 => {
                let items = self.pop_items(usize::from(instruction - opcode::TUPLE1) + 1)?;
                self.push_object(Object::Sequence(items))
            }
            opcode::TUPLE | opcode::LIST => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::Sequence(items))
            }
            opcode::EMPTY_LIST => self.push_object(Object::Sequence(Vec::new())),
            opcode::APPEND => {
                let item = self.pop_items(1)?;
                self.append(item)?
            }
            opcode::APPENDS | opcode::ADDITEMS => {
                let items = self.pop_to_mark()?;
                self.append(items)?
            }
            opcode::EMPTY_DICT => self.push_object(Object::Dict(Vec::new())),
            opcode::DICT => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::Dict(Vec::new()));
                self.insert(items)?
            }
            opcode::SETITEM => {
                let item = self.pop_items(2)?;
                self.insert(item)?
            }
            opcode::SETITEMS => {
                let items = self.pop_to_mark()?;
                self.insert(items)?
            }
            opcode::EMPTY_SET => self.push_object(Object::Opaque(Global::builtin("set"))),
            opcode::FROZENSET => {
                self.pop_to_mark()?;
                self.push_object(Object::Opaque(Global::builtin("frozenset")))
            }
            opcode::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_object(Object::Global(Global { module, name }))
            }
            opcode::STACK_GLOBAL => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push_object(Object::Global(Global { module, name })),
                _ => return error("the name of a class or function is not text"),
            },
            // BUILD sets attributes, such as `_metadata` of a state dict. Classification needs none.
            opcode::BUILD => drop(self.pop()?),
            opcode::REDUCE | opcode::NEWOBJ => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.reduce(function, arguments)?
            }
            opcode::NEWOBJ_EX => {
                let (_named, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.reduce(class, arguments)?
            }
            opcode::OBJ => {
                let items = self.pop_to_mark()?;
                let class = items.first().map_or(Global::builtin("object"), |class| self.class(*class));
                self.push_object(Object::Opaque(class))
            }
            opcode::BINPUT => {
                let key = self.byte()?;
                self.memorise(key.into())?
            }
            opcode::LONG_BINPUT => {
                let key = self.u32()?;
                self.memorise(key)?
            }
            opcode::MEMOIZE => self.memorise(self.memo.len() as u32)?,
            opcode::BINGET => {
                let key = self.byte()?;
                self.recall(key.into())?
            }
            opcode::LONG_BINGET => {
                let key = self.u32()?;
                self.recall(key)?
            }
            opcode::BINPERSID => {
                let id = self.pop()?;
                self.push_persistent(id)?
            }
            other => {
                return error(format!(
                    "pickle instruction {other:#04x} is unknown; save with torch.save and pickle protocol 2 to 5"
                ));
            }
        }
        Ok(())
    }

    /// Counts executed instructions and copied items.
    fn spend(&mut self, steps: usize) -> Result<(), Error> {
        match self.steps_left.checked_sub(steps) {
            Some(left) => self.steps_left = left,
            None => {
                return error(format!(
                    "the pickle has more than {MAX_STEPS} instructions; save the state dict without the data beside it"
                ));
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
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

    /// A length of `width` bytes without a sign. A length that does not fit is longer than any file.
    fn length(&mut self, width: usize) -> Result<usize, Error> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().rev().fold(0, |high: usize, &byte| high.saturating_mul(256).saturating_add(byte.into())))
    }

    fn line(&mut self) -> Result<&'a str, Error> {
        let Some(end) = memchr::memchr(b'\n', self.rest) else { return error("the file is cut short") };
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).or_else(|_| error("the name of a class or function is not UTF-8"))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn push_object(&mut self, object: Object<'a>) {
        self.stack.push(Value::Object(ObjectId(self.objects.len())));
        self.objects.push(object);
    }

    /// Pushes a little-endian integer of `length` bytes. Of an integer with more than eight bytes, only the low eight
    /// are kept. The magic number of torch's older format has more; sizes and offsets do not.
    fn push_integer(&mut self, length: usize, signed: bool) -> Result<(), Error> {
        let bytes = self.take(length)?;
        let is_negative = signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if is_negative { 0xff } else { 0 }; 8];
        let kept = length.min(8);
        wide[..kept].copy_from_slice(&bytes[..kept]);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    /// Pushes a text whose length has `width` bytes. Python 2 and `surrogatepass` also write texts that are not UTF-8.
    /// The name of a tensor is never one of these.
    fn push_text(&mut self, width: usize) -> Result<(), Error> {
        let length = self.length(width)?;
        let text = std::str::from_utf8(self.take(length)?);
        self.push(text.map_or(Value::Other, Value::Text));
        Ok(())
    }

    fn push_bytes(&mut self, width: usize) -> Result<(), Error> {
        let length = self.length(width)?;
        self.take(length)?;
        self.push(Value::Other);
        Ok(())
    }

    /// The lowest length that the stack may have: that at the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>, Error> {
        Ok(self.pop_items(1)?[0])
    }

    fn pop_items(&mut self, count: usize) -> Result<Vec<Value<'a>>, Error> {
        match self.stack.len().checked_sub(count) {
            Some(first) if first >= self.floor() => Ok(self.stack.split_off(first)),
            _ => error("an instruction needs more values than the stack has"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, Error> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => error("an instruction needs a mark, but the stack has none"),
        }
    }

    /// The object on top of the stack.
    fn top(&mut self) -> Result<&mut Object<'a>, Error> {
        match self.stack.last() {
            Some(Value::Object(id)) => Ok(&mut self.objects[id.0]),
            _ => error("items are put into a value that is no object"),
        }
    }

    /// Appends items to the object on top of the stack.
    fn append(&mut self, items: Vec<Value<'a>>) -> Result<(), Error> {
        if let Object::Sequence(sequence) = self.top()? {
            sequence.extend(items);
        }
        Ok(())
    }

    /// Inserts `items`, which alternate between key and value, into the object on top of the stack.
    fn insert(&mut self, items: Vec<Value<'a>>) -> Result<(), Error> {
        let (pairs, _odd) = items.as_chunks::<2>();
        // An object of an unknown class, such as a subclass of dict, has no property but its class.
        if let Object::Dict(entries) = self.top()? {
            entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
        }
        Ok(())
    }

    /// Stores the value on top of the stack in the memo.
    fn memorise(&mut self, key: u32) -> Result<(), Error> {
        let Some(value) = self.stack.last() else {
            return error("an instruction stores a value in the memo, but the stack is empty");
        };
        self.memo.insert(key, *value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Error> {
        match self.memo.get(&key) {
            Some(value) => self.stack.push(*value),
            None => return error(format!("value {key} is read from the memo, but was never stored there")),
        }
        Ok(())
    }

    /// The class or function that `value` names.
    fn class(&self, value: Value<'a>) -> Global<'a> {
        match self.object(value) {
            Some(Object::Global(global) | Object::Opaque(global)) => *global,
            _ => Global::builtin("object"),
        }
    }

    fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(id) => Some(&self.objects[id.0]),
            _ => None,
        }
    }

    fn items(&self, value: Value<'a>) -> &[Value<'a>] {
        match self.object(value) {
            Some(Object::Sequence(items)) => items,
            _ => &[],
        }
    }

    /// Pushes the object that a persistent id stands for: `('storage', class, key, location, elements[, view])`.
    /// Another id, such as that of a module's source text, becomes an opaque object.
    fn push_persistent(&mut self, id: Value<'a>) -> Result<(), Error> {
        let &[Value::Text(kind), class, ref rest @ ..] = self.items(id) else {
            return error("a persistent id is not a tuple that begins with text");
        };
        let class = self.class(class);
        let object = match (kind, rest) {
            // The sixth part is a view into another storage, which torch stopped writing in 2017.
            ("storage", [Value::Text(key), _, _, Value::Object(_), ..]) => {
                return error(format!("storage {key} is a view; load the file with torch and save it again"));
            }
            ("storage", [Value::Text(key), ..]) => match Storage::new(key, class) {
                Some(storage) => {
                    self.storages.insert(key, storage);
                    Object::Storage(storage)
                }
                None => return error(format!("numbers in a {class} are unknown; save the weights as torch.float32")),
            },
            _ => Object::Opaque(class),
        };
        self.push_object(object);
        Ok(())
    }

    /// Pushes the object that a call stands for. Nothing is called: the calls that build dicts and tensors are known,
    /// and the result of any other call is an opaque object.
    fn reduce(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<(), Error> {
        let class = self.class(function);
        let items = self.items(arguments);
        let object = match (class.module, class.name) {
            ("collections", "OrderedDict") => match items.first() {
                Some(&pairs) => self.ordered_dict(pairs)?,
                None => Object::Dict(Vec::new()),
            },
            ("collections", "defaultdict") => Object::Dict(Vec::new()),
            // `(function, type, arguments, state)`: a tensor with attributes or of a subclass.
            ("torch._tensor", "_rebuild_from_type_v2") => match items {
                &[function, _, arguments, ..] if !self.is_from_type(function) => {
                    return self.reduce(function, arguments);
                }
                _ => Object::Opaque(class),
            },
            // `(data, requires_grad, hooks[, state])`: the same tensor again.
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => match items.first() {
                Some(&data) => {
                    self.push(data);
                    return Ok(());
                }
                None => Object::Opaque(class),
            },
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
                self.view(items).map_or(Object::Opaque(class), Object::Tensor)
            }
            _ => Object::Opaque(class),
        };
        self.push_object(object);
        Ok(())
    }

    /// Whether `function` is `_rebuild_from_type_v2`, which torch never nests. Nested calls could exhaust the stack.
    fn is_from_type(&self, function: Value<'a>) -> bool {
        self.class(function).name == "_rebuild_from_type_v2"
    }

    /// The dict of a list of pairs. Python 2 writes ordered dicts like that.
    fn ordered_dict(&mut self, pairs: Value<'a>) -> Result<Object<'a>, Error> {
        self.spend(self.items(pairs).len())?;
        let entry = |pair: &Value<'a>| match self.items(*pair) {
            &[key, value] => Some((key, value)),
            _ => None,
        };
        Ok(Object::Dict(self.items(pairs).iter().filter_map(entry).collect()))
    }

    /// The tensor of `(storage, offset, shape, strides, …)`; `None` if the arguments are others. In `_rebuild_tensor_v3`
    /// the seventh argument is the type of the numbers, whose storage has no type.
    fn view(&self, arguments: &[Value<'a>]) -> Option<View<'a>> {
        let &[storage, Value::Int(offset), shape, strides, ref rest @ ..] = arguments else { return None };
        let Some(Object::Storage(storage)) = self.object(storage) else { return None };
        let storage = match rest.get(2).and_then(|element| self.object(*element)) {
            Some(Object::Global(element)) => storage.of_type(*element)?,
            _ => *storage,
        };
        View::new(storage, offset, &integers(self.items(shape))?, &integers(self.items(strides))?)
    }
}

/// The sizes or strides of a tensor; `None` if one is no integer, or there are more than a tensor has dimensions.
fn integers(values: &[Value<'_>]) -> Option<Vec<i64>> {
    let integer = |value: &Value<'_>| match value {
        Value::Int(integer) => Some(*integer),
        _ => None,
    };
    let is_short = values.len() <= View::MAX_RANK;
    is_short.then(|| values.iter().map(integer).collect()).flatten()
}

#[cfg(test)]
mod tests;
