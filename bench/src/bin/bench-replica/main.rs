//! The program `bench-replica`: runs parts of the replica by themselves, without HTTP. `bench` starts it. This is the
//! only part of the benchmarks that links the replica, and so needs libtorch.

mod decode;
mod forward;
mod parity;

use clap::Parser;
use std::process::ExitCode;

/// Times and runs parts of the replica.
#[derive(Parser)]
enum Command {
    /// Time decoding and the transform; answers questions on standard input
    Decode(decode::Args),
    /// Time forward passes; answers questions on standard input
    Forward(forward::Args),
    /// Write pixels and logits of listed images to files, for the comparison with torchvision
    Parity(parity::Args),
}

fn main() -> ExitCode {
    exit::report(match Command::parse() {
        Command::Decode(args) => decode::run(&args),
        Command::Forward(args) => forward::run(args),
        Command::Parity(args) => parity::run(args),
    })
}
