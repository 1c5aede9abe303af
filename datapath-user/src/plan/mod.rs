//! What this node's maps should hold, and the difference to what they hold. Pure.

mod tables;

pub use tables::{Change, Keys, Tables};
