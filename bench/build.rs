//! Gives `bench-replica` an rpath to libtorch, so that it runs from anywhere without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_REPLICA").is_some() {
        let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH names libtorch's folder; run `cargo xtask libtorch`");
        println!("cargo:rustc-link-arg-bin=bench-replica=-Wl,-rpath,{libtorch}/lib");
    }
}
