//! Gives the tests of this crate an rpath to the folder of libtorch, which has ONNX Runtime, so that they run without
//! `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch =
        std::env::var("LIBTORCH").expect("LIBTORCH must name the folder of libtorch; run `cargo xtask libtorch`");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
}
