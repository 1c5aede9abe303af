//! The container image: nothing but the static binary, so nothing is pulled to build it.

use std::fs;

use anyhow::{Context, Result};

use super::docker;
use crate::{build, paths, process};

/// The name that the manifests use.
const IMAGE: &str = concat!("datapath:", env!("CARGO_PKG_VERSION"));

/// Builds the product and its image; returns the image's name.
///
/// # Errors
///
/// When the build or Docker fails.
pub(crate) fn build() -> Result<String> {
    let binary = build::product(false)?;
    let context = paths::target().join("image");
    fs::create_dir_all(&context)?;
    fs::copy(&binary, context.join("datapath"))
        .with_context(|| format!("cannot copy {}", binary.display()))?;
    let mut command = docker();
    command.arg("build").args(["--quiet", "--tag", IMAGE, "--file"]);
    command.arg(paths::root().join("Dockerfile")).arg(&context);
    if !process::succeeds(docker().args(["buildx", "version"])) {
        // Docker takes buildx for granted where it has not been told otherwise.
        command.env("DOCKER_BUILDKIT", "0");
    }
    process::output(&mut command)?;
    Ok(IMAGE.to_owned())
}
