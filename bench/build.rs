//! Gives `bench-replica` an rpath to libtorch, so that it finds libtorch without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_REPLICA").is_some() {
        let libtorch = std::env::var("LIBTORCH")
            .expect("set LIBTORCH to the folder of libtorch; `cargo xtask libtorch` downloads one");
        println!("cargo:rustc-link-arg-bin=bench-replica=-Wl,-rpath,{libtorch}/lib");
    }
}
