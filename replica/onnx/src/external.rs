//! Weights that an ONNX file keeps in other files beside it, such as `model.onnx.data`. The names of these files are data
//! of strangers: no name may lead out of the folder.

use crate::Error;
use crate::protobuf::{Attribute, Graph, Model, Node, SparseTensor, Tensor};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};
use std::sync::Arc;

/// A file with weights.
pub(crate) struct ExternalFile {
    /// The name that the network has for it.
    pub(crate) name: String,
    pub(crate) bytes: Arc<[u8]>,
}

/// Most other files of one network.
const MAX_FILES: usize = 64;

/// Most bytes of all other files of one network.
const MAX_BYTES: u64 = 16 << 30;

/// The names of other files that the weights of `model` are in, relative to the folder of the model's file.
///
/// # Errors
/// If a name leads out of the folder, there are too many names, or a tensor that is no weight of the main graph is in
/// another file.
pub(crate) fn names(model: &Model) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    let Some(graph) = &model.graph else { return Ok(names) };
    for tensor in graph.initializers.iter().filter(|tensor| tensor.is_external()) {
        let location = tensor.external.iter().find(|entry| entry.key == "location");
        let name = location.map_or("", |entry| entry.value.as_str());
        if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!(
                "the weights of {} are in {name:?}, which is no name of a file in the folder of the network",
                tensor.name
            ));
        }
        names.insert(name.to_owned());
        if names.len() > MAX_FILES {
            return Err(format!("the weights are in more than {MAX_FILES} other files; export them to one file"));
        }
    }
    let functions = model.functions.iter().any(|function| {
        function.nodes.iter().flat_map(|node| &node.attributes).chain(&function.attributes).any(attribute_is_external)
    });
    let mut training = model.training.iter().flat_map(|training| [&training.initialization, &training.algorithm]);
    if functions
        || training.any(|graph| graph.as_ref().is_some_and(graph_is_external))
        || graph.sparse_initializers.iter().any(sparse_is_external)
        || graph.nodes.iter().any(node_is_external)
    {
        return Err("a constant inside of an operator is in another file; only weights may be in another file".into());
    }
    Ok(names)
}

/// Reads the files `names` in `folder`.
///
/// # Errors
/// If a file cannot be read or is no regular file, or all files together are too long.
pub(crate) fn read(folder: &Path, names: BTreeSet<String>) -> Result<Vec<ExternalFile>, Error> {
    let mut left = MAX_BYTES;
    names
        .into_iter()
        .map(|name| {
            let path = folder.join(&name);
            let shown = path.display().to_string();
            let bytes = read_file(&path, &mut left).map_err(|error| Error::Read { path: shown, error })?;
            Ok(ExternalFile { name, bytes })
        })
        .collect()
}

/// Reads a regular file of at most `left` bytes, and subtracts its length from `left`.
fn read_file(path: &Path, left: &mut u64) -> io::Result<Arc<[u8]>> {
    // The kind is read before the file is opened, because opening a pipe waits for its other end.
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("weights must be in a regular file"));
    }
    let length = metadata.len();
    *left = left.checked_sub(length).ok_or_else(|| io::Error::other("the weights of a network may have 16 GiB"))?;
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, length as usize).collect();
    File::open(path)?.read_exact(Arc::get_mut(&mut bytes).expect("the bytes are not shared yet"))?;
    Ok(bytes)
}

fn node_is_external(node: &Node) -> bool {
    node.attributes.iter().any(attribute_is_external)
}

fn attribute_is_external(attribute: &Attribute) -> bool {
    attribute.tensor.iter().chain(&attribute.tensors).any(Tensor::is_external)
        || attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors).any(sparse_is_external)
        || attribute.graph.iter().chain(&attribute.graphs).any(graph_is_external)
}

fn graph_is_external(graph: &Graph) -> bool {
    graph.initializers.iter().any(Tensor::is_external)
        || graph.sparse_initializers.iter().any(sparse_is_external)
        || graph.nodes.iter().any(node_is_external)
}

fn sparse_is_external(sparse: &SparseTensor) -> bool {
    sparse.numbers.iter().chain(&sparse.indices).any(Tensor::is_external)
}
