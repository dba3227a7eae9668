//! The values and objects that a pickle builds. Values are small and are copied; objects are shared.

use super::super::stored_tensor::{Storage, View};
use std::fmt;

/// A value on the stack, in the memo or in an object.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Value<'a> {
    /// An integer or a boolean.
    Int(i64),
    Text(&'a str),
    Object(ObjectId),
    /// A value that no state dict needs: None, a floating-point number or bytes.
    Other,
}

/// The number of an object within its pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct ObjectId(pub(super) usize);

/// An object that values refer to.
#[derive(Debug)]
pub(in super::super) enum Object<'a> {
    /// A class or function.
    Global(Global<'a>),
    /// A tuple or list.
    Sequence(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(View<'a>),
    /// An object of a class that no state dict needs, or the result of a call.
    Opaque(Global<'a>),
}

/// The name of a class or function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Global<'a> {
    pub(in super::super) module: &'a str,
    pub(in super::super) name: &'a str,
}

impl Global<'static> {
    /// A class that Python has by itself.
    pub(super) fn builtin(name: &'static str) -> Self {
        Self { module: "builtins", name }
    }
}

impl fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}
