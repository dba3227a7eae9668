//! Replicas as child processes, with real processes: shell scripts that say they are ready and then do one thing.

mod cleanup;
mod deaths;
mod several;
mod stub;
