//! Hands the linker what a freestanding image needs, so that a plain `cargo build` makes one
//! from any directory and without `RUSTFLAGS`.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,noexecstack",
        "-Wl,-z,max-page-size=4096",
        &format!("-T{here}/image.ld"),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    for input in ["image.ld", "src/ring0/boot.s", "src/ring0/traps.s"] {
        println!("cargo:rerun-if-changed={input}");
    }
}
