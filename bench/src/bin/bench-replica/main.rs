//! The program `bench-replica`: runs parts of the replica alone, without HTTP. `bench` starts it. No other part of the
//! benchmarks links the replica, and so needs libtorch.

mod decode;
mod forward;
mod parity;
mod zoo;

use clap::Parser;
use std::process::ExitCode;

/// Runs and times parts of the replica, for the program `bench`.
#[derive(Parser)]
enum Command {
    /// Time decoding and the transform, as questions on standard input ask
    Decode(decode::Args),
    /// Time forward passes, as questions on standard input ask
    Forward(forward::Args),
    /// Write the pixels and logits of listed images to files, for the comparison with torchvision
    Parity(parity::Args),
    /// Load the checkpoints of a zoo, and compare the results with the expected ones
    Zoo(zoo::Args),
}

fn main() -> ExitCode {
    exit::report(match Command::parse() {
        Command::Decode(args) => decode::run(&args),
        Command::Forward(args) => forward::run(args),
        Command::Parity(args) => parity::run(args),
        Command::Zoo(args) => zoo::run(&args),
    })
}
