//! Kubernetes objects, from an API server or from files. The only place with their types; what
//! leaves it are [`crate::model`]'s.

mod connect;
mod convert;
mod events;
mod installation;
mod source;
mod watch;

pub use connect::{Access, ConnectError, SavedServers, connect};
pub use events::{Events, Subject, Warning};
pub use installation::Installation;
pub use source::{SourceError, parse_json, watch_folder};
pub use watch::{News, watch};
