//! Blocks of memory for the bodies of requests. A block has the length of its body, rounded up, and is used again for
//! later bodies. Without this, the allocator would return the memory of long bodies to the kernel and get it back, page
//! by page, for each request. Does no I/O.

use bytes::Bytes;
use std::sync::{Mutex, PoisonError};

/// The length of every block is a multiple of this many bytes, so that bodies of about the same length share blocks.
const STEP_BYTES: usize = 4 << 10;

/// Shorter blocks are not kept, because the allocator serves them without the kernel.
const SHORTEST_KEPT: usize = 16 << 10;

/// Longer blocks are not kept, because long bodies are rare and their memory is large.
const LONGEST_KEPT: usize = 256 << 10;

/// The most bytes of blocks that no body uses: enough for 64 bodies of the longest kept length.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// The blocks of this process that no body uses.
static FREE: Mutex<FreeBlocks> = Mutex::new(FreeBlocks::new());

/// The blocks that no body uses, by length: those of `n` steps are at the index `n`.
struct FreeBlocks {
    by_steps: [Vec<Vec<u8>>; LONGEST_KEPT / STEP_BYTES + 1],
    kept_bytes: usize,
}

impl FreeBlocks {
    const fn new() -> Self {
        Self { by_steps: [const { Vec::new() }; LONGEST_KEPT / STEP_BYTES + 1], kept_bytes: 0 }
    }

    /// An empty block with room for `bytes`.
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let steps = bytes.div_ceil(STEP_BYTES);
        match self.by_steps.get_mut(steps).and_then(Vec::pop) {
            Some(block) => {
                self.kept_bytes -= block.capacity();
                block
            }
            None => Vec::with_capacity(steps * STEP_BYTES),
        }
    }

    /// Keeps `block` for a later body, if it has a length that is kept and there is room for it.
    fn put(&mut self, mut block: Vec<u8>) {
        let bytes = block.capacity();
        if !bytes.is_multiple_of(STEP_BYTES) || bytes < SHORTEST_KEPT || self.kept_bytes + bytes > MAX_KEPT_BYTES {
            return;
        }
        if let Some(blocks) = self.by_steps.get_mut(bytes / STEP_BYTES) {
            block.clear();
            blocks.push(block);
            self.kept_bytes += bytes;
        }
    }
}

/// An empty block with room for `bytes`, which may have been used before.
pub(crate) fn take(bytes: usize) -> Vec<u8> {
    if bytes < SHORTEST_KEPT {
        return Vec::with_capacity(bytes);
    }
    FREE.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)
}

/// Returns a block that no body uses.
pub(crate) fn give_back(block: Vec<u8>) {
    if block.capacity() >= SHORTEST_KEPT {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).put(block);
    }
}

/// The bytes in `block`, whose memory can be used again once the last clone is gone.
pub(crate) fn freeze(block: Vec<u8>) -> Bytes {
    if block.capacity() < SHORTEST_KEPT { block.into() } else { Bytes::from_owner(UsedBlock(block)) }
}

/// A block that a body uses.
struct UsedBlock(Vec<u8>);

impl AsRef<[u8]> for UsedBlock {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for UsedBlock {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_for_a_body_of_about_the_same_length() {
        let mut free = FreeBlocks::new();
        let mut block = free.take(38_000);
        assert_eq!(block.capacity(), 40 << 10);
        block.extend_from_slice(b"image");
        let at = block.as_ptr();
        free.put(block);
        assert_eq!(free.kept_bytes, 40 << 10);
        let other = free.take(20_000);
        assert!(other.as_ptr() != at, "a body of another length");
        let again = free.take(40_000);
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (at, 0, 40 << 10));
        assert_eq!(free.kept_bytes, 0);
    }

    #[test]
    fn the_memory_of_unused_blocks_is_bounded() {
        let mut free = FreeBlocks::new();
        for bytes in [1, SHORTEST_KEPT - STEP_BYTES, LONGEST_KEPT + 1, 1 << 20] {
            let block = free.take(bytes);
            free.put(block);
            assert_eq!(free.kept_bytes, 0, "{bytes}");
        }
        free.put(Vec::with_capacity(SHORTEST_KEPT + 1));
        assert_eq!(free.kept_bytes, 0, "its length is no multiple");
        let blocks: Vec<_> = (0..100).map(|_| free.take(LONGEST_KEPT)).collect();
        blocks.into_iter().for_each(|block| free.put(block));
        assert_eq!(free.kept_bytes, MAX_KEPT_BYTES);
    }
}
