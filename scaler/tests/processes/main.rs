//! The target `processes` with real child processes: shell scripts that print an address as a replica does.

mod cleanup;
mod deaths;
mod several;
mod stub;
