//! The `datapath` library.
