//! The target `processes` with real child processes. They are shell scripts that print an address, as replicas do.

mod cleanup;
mod deaths;
mod fixture;
#[path = "../common/script.rs"]
mod script;
mod several;
