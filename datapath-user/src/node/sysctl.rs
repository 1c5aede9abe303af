//! Settings of the kernel, by their files.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};
use tracing::info;

/// The folder of `net.*`, which shows those of the network namespace of whoever opens it.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

/// A setting that could not be set.
#[derive(Debug, thiserror::Error)]
#[error("{name} could not be set to {value}: {error}")]
pub struct NotSet {
    /// Its file below `/proc/sys`.
    pub name: String,
    /// What it should be.
    pub value: String,
    /// What the system said.
    pub error: io::Error,
}

impl Sysctls {
    /// Where the DaemonSet mounts the node's, since a container's own are read-only; else our own.
    pub fn of_node() -> Self {
        let mounted = Path::new(MOUNTED);
        Self { root: if mounted.is_dir() { mounted } else { Path::new(OWN) }.to_owned() }
    }

    #[cfg(test)]
    pub(super) fn in_folder(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The value of the setting `net.*` at `name`: `ipv4/ip_forward`.
    pub fn get(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.root.join(name)).map(|text| text.trim().to_owned())
    }

    /// Makes it `value`, if it is not.
    pub fn set(&self, name: &str, value: impl Display) -> Result<(), NotSet> {
        let value = value.to_string();
        let set = self.get(name).and_then(|before| {
            if before != value {
                // An empty write would be none at all.
                fs::write(self.root.join(name), format!("{value}\n"))?;
                info!(name = format!("net/{name}"), before, value, "set");
            }
            Ok(())
        });
        set.map_err(|error| NotSet { name: format!("net/{name}"), value, error })
    }
}

const MOUNTED: &str = "/host/proc/sys/net";
const OWN: &str = "/proc/sys/net";
