//! Catches panics of third-party decoders without printing them: a client could otherwise fill the log.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether panics of this thread are not printed.
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`. `None` if it panicked; the panic is not printed. Panics of other threads are printed as usual.
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
    fn a_panic_is_caught_and_does_not_affect_the_next_call() {
        assert_eq!(catch_silently(|| -> u8 { panic!("hostile") }), None);
        assert!(!SILENT.get(), "later panics are printed");
        assert_eq!(catch_silently(|| 7), Some(7));
    }
}
