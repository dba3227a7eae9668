//! A checked ONNX file. It is read and checked without ONNX Runtime.

use crate::Error;
use crate::external::{self, ExternalFile};
use crate::protobuf::Model;
use crate::session::Session;
use crate::signature::Signature;
use crate::size;
use bytes::Bytes;
use prost::Message;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// The longest file. No protobuf may be longer, and ONNX Runtime reads no longer one.
const MAX_BYTES: u64 = i32::MAX as u64;

/// An ONNX file whose network classifies images.
pub struct File {
    pub(crate) path: String,
    pub(crate) bytes: Bytes,
    /// The other files that weights are in.
    pub(crate) external: Vec<ExternalFile>,
    pub(crate) signature: Signature,
    metadata: HashMap<String, String>,
}

impl File {
    /// Reads a file and the files beside it that its weights are in, and checks that the network is a classifier: it has
    /// one input `[n, 3, side, side]` and one output, both of `float32`.
    ///
    /// # Errors
    /// If a file cannot be read ([`Error::Read`]), or the network is no classifier ([`Error::Unusable`]).
    pub fn open(path: &Path) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let bytes = read(path).map_err(|error| Error::Read { path: shown.clone(), error })?;
        let unusable = |reason: String| Error::Unusable { path: shown.clone(), reason };
        let bytes = Bytes::from(bytes);
        size::check(&bytes).map_err(|reason| unusable(reason.into()))?;
        let model = Model::decode(bytes.clone()).map_err(|error| unusable(format!("not an ONNX file: {error}")))?;
        let graph = model.graph.as_ref().ok_or_else(|| unusable("not an ONNX file: it has no graph".into()))?;
        let signature = Signature::of(graph).map_err(unusable)?;
        let names = external::names(&model).map_err(unusable)?;
        let external = external::read(path.parent().unwrap_or(Path::new("")), names)?;
        let metadata = model.metadata.into_iter().map(|entry| (entry.key, entry.value)).collect();
        Ok(Self { path: shown, bytes, external, signature, metadata })
    }

    /// The pairs of the field `metadata_props` of the file.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The side of the square images that the network takes, in pixels; `None` if any side is possible.
    pub fn side(&self) -> Option<usize> {
        self.signature.side
    }

    /// The number of images that every pass of the network takes; `None` if any number is possible.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.signature.batch
    }

    /// A session that computes the network of this file for images of `side` by `side` pixels, with `threads` threads.
    /// It has a copy of the weights.
    ///
    /// # Errors
    /// If ONNX Runtime cannot be loaded, or cannot compute the network, or the network takes images of another side.
    pub fn session(&self, side: usize, threads: usize) -> Result<Session, Error> {
        let unusable = |reason: String| Error::Unusable { path: self.path.clone(), reason };
        if let Some(fixed) = self.side().filter(|&fixed| fixed != side) {
            return Err(unusable(format!(
                "the network takes images of {fixed}x{fixed} pixels, but the transform makes {side}x{side}; give --crop \
                 {fixed}, or export the network with dynamic height and width"
            )));
        }
        Session::new(self, side, threads).map_err(unusable)
    }
}

/// Reads a regular file that is not too long.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // The kind is read before the file is opened, because opening a pipe waits for its other end.
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("an ONNX network is a regular file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(io::Error::other("an ONNX file has at most 2 GiB; export the weights to a file beside it"));
    }
    std::fs::read(path)
}
