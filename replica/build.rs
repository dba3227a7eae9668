//! Gives the binaries an rpath to libtorch, so that they run from anywhere without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH names the unpacked libtorch; run `cargo xtask libtorch`");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
}
