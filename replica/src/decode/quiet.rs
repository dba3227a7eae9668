//! Panics of third-party decoders: caught, and kept out of the log, which a client could otherwise fill.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`; `None` if it panicked, of which nothing is printed. Other threads' panics are printed as ever.
pub(super) fn catch<T>(body: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                print(panic);
            }
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    QUIET.set(false);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_the_next_call_is_not_affected() {
        assert_eq!(catch(|| -> u8 { panic!("hostile") }), None);
        assert!(!QUIET.get(), "what panics outside is printed");
        assert_eq!(catch(|| 7), Some(7));
    }
}
