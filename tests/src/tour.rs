//! The tour.
use crate::{Lab, proxy::Kind};
use anyhow::Result;
/// Shows.
pub fn show(_lab: &Lab, _kind: Option<Kind>) -> Result<()> {
    Ok(())
}
/// Lives.
pub fn live(_lab: &Lab, _kind: Option<Kind>) -> Result<()> {
    Ok(())
}
