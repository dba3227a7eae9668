//! Catches panics of decoders without printing them. Otherwise a client could fill the log with hostile files.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether panics of this thread are silent, that is, not printed.
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`. Returns `None` if `body` panics, and does not print the panic. Panics of other threads are printed as
/// usual.
pub(super) fn catch_silently<T>(body: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !SILENT.get() {
                print(panic);
            }
        }));
    });
    SILENT.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    SILENT.set(false);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_does_not_affect_later_calls() {
        assert_eq!(catch_silently(|| -> u8 { panic!("a hostile file") }), None);
        assert!(!SILENT.get(), "later panics are printed");
        assert_eq!(catch_silently(|| 7), Some(7));
    }
}
