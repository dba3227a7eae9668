//! Gives the programs of this crate an rpath to libtorch, so that they run without `LD_LIBRARY_PATH`, and links them with
//! CUDA's part of libtorch if there is one.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch =
        std::env::var("LIBTORCH").expect("LIBTORCH must name the folder of libtorch; run `cargo xtask libtorch`");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    // The programs use no symbol of this library, so the linker would leave it out, and libtorch would find no GPU.
    if Path::new(&libtorch).join("lib/libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-Wl,--push-state,--no-as-needed,-ltorch_cuda,--pop-state");
    }
}
