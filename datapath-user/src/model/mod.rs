//! What the cluster says, in our own words. Pure.
