//! The memory for long answers of replicas, which all requests share. An answer takes its part when its head has
//! arrived, and gives it back when the client has the whole body. A client that reads slowly cannot fill the memory
//! this way.

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The memory for long answers, in KiB: 256 MiB.
const MEMORY_KIB: usize = 256 << 10;

/// The memory that no answer holds, in KiB.
static FREE_KIB: Semaphore = Semaphore::const_new(MEMORY_KIB);

/// The part of the memory that one answer holds. It is free again when this value is dropped.
#[derive(Debug)]
pub(super) struct AnswerMemory {
    _kib: SemaphorePermit<'static>,
}

impl AnswerMemory {
    /// Takes memory for a body of `bytes`; `None` if too little is left. An answer does not wait for memory, because
    /// its replica would keep the slot meanwhile.
    pub(super) fn reserve(bytes: usize) -> Option<Self> {
        Self::reserve_from(&FREE_KIB, bytes)
    }

    fn reserve_from(free_kib: &'static Semaphore, bytes: usize) -> Option<Self> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).ok()?;
        free_kib.try_acquire_many(kib).ok().map(|kib| Self { _kib: kib })
    }

    /// Keeps the memory until the last clone of `body` is dropped.
    pub(super) fn hold(self, body: Bytes) -> Bytes {
        Bytes::from_owner(HeldBody { body, _memory: self })
    }
}

/// A body with the memory that it holds.
struct HeldBody {
    body: Bytes,
    _memory: AnswerMemory,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_free_again_once_the_last_clone_of_the_body_is_gone() {
        static FREE: Semaphore = Semaphore::const_new(8);
        let reserve = |bytes| AnswerMemory::reserve_from(&FREE, bytes);
        assert!(reserve((8 << 10) + 1).is_none() && reserve(usize::MAX).is_none());
        let body = reserve(8 << 10).expect("all memory is free").hold(Bytes::from_static(b"body"));
        let clone = body.slice(1..);
        drop(body);
        assert!(reserve(1).is_none(), "a part of the body is still there");
        drop(clone);
        assert!(reserve(8 << 10).is_some());
    }
}
