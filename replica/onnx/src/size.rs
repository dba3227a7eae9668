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

/// The reason for too many messages.
const PARTS: &str = "the network has more than a million parts; no network that was seen has so many";

/// The reason for a group. Decoding skips a group that it does not know, and reads what follows. Counting would have to
/// find the end of the group as decoding does.
const GROUP: &str = "not an ONNX file: it has a group, which is an obsolete kind of field that no ONNX file has";

/// Why counting ends before the file does.
enum Stop {
    /// Decoding would take too much memory, or nothing bounds its memory. With the reason.
    Excessive(&'static str),
    /// Decoding gets no further than this.
    Malformed,
}

impl From<prost::DecodeError> for Stop {
    fn from(_: prost::DecodeError) -> Self {
        Self::Malformed
    }
}

/// Checks that decoding the file `bytes` takes a bounded amount of memory. A malformed file passes, because decoding
/// refuses it.
///
/// # Errors
/// If the file has too many messages, or a group. The error is the reason.
pub(crate) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let mut left = MAX_ENTRIES;
    match count(Kind::Model, bytes, &mut left, 0) {
        Err(Stop::Excessive(reason)) => Err(reason),
        Ok(()) | Err(Stop::Malformed) => Ok(()),
    }
}

/// Subtracts the number of messages and names in `bytes` from `left`.
fn count(kind: Kind, mut bytes: &[u8], left: &mut usize, depth: usize) -> Result<(), Stop> {
    if depth > MAX_DEPTH {
        return Err(Stop::Malformed);
    }
    while !bytes.is_empty() {
        let key = prost::decode_length_delimiter(&mut bytes)?;
        let length = match key & 7 {
            0 => {
                // A number of variable length, which here takes at most four times its bytes once it is decoded.
                prost::decode_length_delimiter(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => prost::decode_length_delimiter(&mut bytes)?,
            3 | 4 => return Err(Stop::Excessive(GROUP)),
            5 => 4,
            _ => return Err(Stop::Malformed),
        };
        let (field, rest) = bytes.split_at_checked(length).ok_or(Stop::Malformed)?;
        bytes = rest;
        let child = kind.of_field(key >> 3);
        *left = left.saturating_sub(match child {
            Some(Kind::Numbers) => 1 + length,
            Some(_) => 1,
            None => 0,
        });
        if *left == 0 {
            return Err(Stop::Excessive(PARTS));
        }
        if let Some(child) = child.filter(|child| !matches!(child, Kind::Numbers | Kind::Leaf)) {
            count(child, field, left, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{Attribute, Dimension, Graph, Model, Node, Shape, Tensor, TensorType, Type, Value};
    use prost::Message;

    fn assert_excessive(graph: Graph, expected: bool) {
        let model = Model { graph: Some(graph), ..Model::default() };
        assert_eq!(check(&model.encode_to_vec()), if expected { Err(PARTS) } else { Ok(()) });
    }

    #[test]
    fn many_small_messages_are_excessive_wherever_they_are() {
        let node = |node: Node| Graph { nodes: vec![node], ..Graph::default() };
        let many = MAX_ENTRIES;
        assert_excessive(Graph { nodes: vec![Node::default(); many], ..Graph::default() }, true);
        assert_excessive(node(Node { inputs: vec![String::new(); many], ..Node::default() }), true);
        assert_excessive(node(Node { attributes: vec![Attribute::default(); many], ..Node::default() }), true);
        let tensors = Attribute { tensors: vec![Tensor::default(); many], ..Attribute::default() };
        assert_excessive(node(Node { attributes: vec![tensors], ..Node::default() }), true);
        let tensor = |tensor: Tensor| Graph { initializers: vec![tensor], ..Graph::default() };
        assert_excessive(tensor(Tensor { shape: vec![1; many], ..Tensor::default() }), true);
        let shape = Some(Shape { dimensions: vec![Dimension::default(); many] });
        let of = Some(Type { tensor: Some(TensorType { element: 1, shape }) });
        assert_excessive(Graph { inputs: vec![Value { name: "x".into(), of }], ..Graph::default() }, true);
        // Weights are shared with the file, whatever their length.
        assert_excessive(tensor(Tensor { numbers: vec![0; 8 * many].into(), ..Tensor::default() }), false);
        assert_excessive(Graph { nodes: vec![Node::default(); many / 2], ..Graph::default() }, false);
    }

    #[test]
    fn a_group_hides_no_messages() {
        let nodes = vec![Node::default(); MAX_ENTRIES];
        let graph = Model { graph: Some(Graph { nodes, ..Graph::default() }), ..Model::default() }.encode_to_vec();
        // The unknown field 52 as an empty group, and as a group that has another one.
        for group in [&b"\xa3\x06\xa4\x06"[..], b"\xa3\x06\xab\x06\xac\x06\xa4\x06"] {
            assert!(Model::decode(group).is_ok(), "decoding skips {group:?}");
            assert_eq!(check(&[group, &graph].concat()), Err(GROUP), "{group:?}");
            // In a graph.
            let within = [&[0x3a, group.len() as u8], group].concat();
            assert_eq!(check(&[&within[..], &graph].concat()), Err(GROUP), "{group:?}");
        }
    }

    #[test]
    fn malformed_files_are_not_excessive() {
        for bytes in
            [&b""[..], b"\x3a", b"\x3a\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0f"]
        {
            assert_eq!(check(bytes), Ok(()), "{bytes:?}");
        }
    }
}
