//! Embeds the object file of the kernel programs, if there is one.
//!
//! Taken from `DATAPATH_EBPF_OBJECT`, else from where `cargo xtask build-ebpf` puts it. Without one
//! the crate still builds and its tests still run; only loading the programs fails, with a message.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const BUILT: &str = "target/ebpf/bpfel-unknown-none/release/datapath-ebpf";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=DATAPATH_EBPF_OBJECT");
    let object = object();
    watch(&object);
    let embedded = if object.is_file() {
        let path = object.canonicalize()?;
        format!("Some(aya::include_bytes_aligned!(r#\"{}\"#))", path.display())
    } else {
        "None".to_owned()
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("object.rs"), embedded)
}

fn object() -> PathBuf {
    if let Some(path) = env::var_os("DATAPATH_EBPF_OBJECT") {
        return path.into();
    }
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    Path::new(&manifest).parent().expect("the crate is a workspace member").join(BUILT)
}

/// Has this script run again when the object changes, or appears. A watched file that does not exist
/// would make cargo run it on every build, so until there is one its folder is watched.
fn watch(object: &Path) {
    let folder = object.parent().unwrap_or(object);
    let watched =
        if !object.exists() && fs::create_dir_all(folder).is_ok() { folder } else { object };
    println!("cargo::rerun-if-changed={}", watched.display());
}
