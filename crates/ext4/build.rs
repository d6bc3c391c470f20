//! Compiles the C shim and names the two libraries of e2fsprogs it needs (package `libext2fs-dev`).

fn main() {
    println!("cargo:rerun-if-changed=shim/shim.c");
    println!("cargo:rerun-if-changed=shim/shim.h");
    cc::Build::new()
        .file("shim/shim.c")
        .include("shim")
        .warnings(true)
        .extra_warnings(true)
        .flag("-std=gnu11")
        .flag("-Wno-unused-parameter")
        .flag("-Wno-sign-compare")
        .compile("bullion_ext4_shim");
    println!("cargo:rustc-link-lib=ext2fs");
    println!("cargo:rustc-link-lib=com_err");
}
