//! A limit for the memory that decoding takes. An empty message takes two bytes of a file, but hundreds of bytes once it
//! is decoded, so a file of some megabytes could take gigabytes.

/// Most messages and names of one file. A decoded one takes up to 400 bytes. The largest network of torchvision has some
/// ten thousand.
const MAX_ENTRIES: usize = 1_000_000;

/// The depth that prost decodes, which refuses deeper files.
const MAX_DEPTH: usize = 100;

/// The messages of `protobuf`.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Training,
    Function,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Value,
    Type,
    TensorType,
    Shape,
    /// A name, or a message of names and numbers.
    Leaf,
    /// Numbers in one byte or more each, which take eight bytes once they are decoded.
    Numbers,
}

impl Kind {
    /// The kind of a field of this message; `None` if decoding skips it or shares its memory with the file.
    fn of_field(self, field: usize) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Graph, 11 | 12) => Self::Value,
            (Self::Value, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Tensor, 1) => Self::Numbers,
            (Self::Model, 8 | 14)
            | (Self::Graph, 2)
            | (Self::Node, 1 | 2 | 4 | 7)
            | (Self::Attribute | Self::Value | Self::Shape, 1)
            | (Self::Tensor, 8 | 13) => Self::Leaf,
            _ => return None,
        })
    }
}

/// Whether the file `bytes` has so many messages that decoding it would take too much memory. A malformed file is not,
/// because decoding refuses it.
pub(crate) fn is_excessive(bytes: &[u8]) -> bool {
    let mut left = MAX_ENTRIES;
    count(Kind::Model, bytes, &mut left, 0);
    left == 0
}

/// Subtracts the number of messages and names in `bytes` from `left`. Stops where nothing is left or the file is
/// malformed.
fn count(kind: Kind, mut bytes: &[u8], left: &mut usize, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    while !bytes.is_empty() && *left > 0 {
        let key = prost::decode_length_delimiter(&mut bytes).ok()?;
        let length = match key & 7 {
            0 => {
                // A number of variable length, which here takes at most four times its bytes once it is decoded.
                prost::decode_length_delimiter(&mut bytes).ok()?;
                continue;
            }
            1 => 8,
            2 => prost::decode_length_delimiter(&mut bytes).ok()?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        match kind.of_field(key >> 3) {
            Some(Kind::Numbers) => *left = left.saturating_sub(1 + length),
            Some(Kind::Leaf) => *left -= 1,
            Some(child) => {
                *left -= 1;
                count(child, field, left, depth + 1)?;
            }
            None => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{Attribute, Dimension, Graph, Model, Node, Shape, Tensor, TensorType, Type, Value};
    use prost::Message;

    fn check(graph: Graph, expected: bool) {
        let model = Model { graph: Some(graph), ..Model::default() };
        assert_eq!(is_excessive(&model.encode_to_vec()), expected);
    }

    #[test]
    fn many_small_messages_are_excessive_wherever_they_are() {
        let node = |node: Node| Graph { nodes: vec![node], ..Graph::default() };
        let many = MAX_ENTRIES;
        check(Graph { nodes: vec![Node::default(); many], ..Graph::default() }, true);
        check(node(Node { inputs: vec![String::new(); many], ..Node::default() }), true);
        check(node(Node { attributes: vec![Attribute::default(); many], ..Node::default() }), true);
        let tensors = Attribute { tensors: vec![Tensor::default(); many], ..Attribute::default() };
        check(node(Node { attributes: vec![tensors], ..Node::default() }), true);
        let tensor = |tensor: Tensor| Graph { initializers: vec![tensor], ..Graph::default() };
        check(tensor(Tensor { shape: vec![1; many], ..Tensor::default() }), true);
        let shape = Some(Shape { dimensions: vec![Dimension::default(); many] });
        let of = Some(Type { tensor: Some(TensorType { element: 1, shape }) });
        check(Graph { inputs: vec![Value { name: "x".into(), of }], ..Graph::default() }, true);
        // Weights are shared with the file, whatever their length.
        check(tensor(Tensor { numbers: vec![0; 8 * many].into(), ..Tensor::default() }), false);
        check(Graph { nodes: vec![Node::default(); many / 2], ..Graph::default() }, false);
    }

    #[test]
    fn malformed_files_are_not_excessive() {
        for bytes in
            [&b""[..], b"\x3a", b"\x3a\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0f"]
        {
            assert!(!is_excessive(bytes), "{bytes:?}");
        }
    }
}
