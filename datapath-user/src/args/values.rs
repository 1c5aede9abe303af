//! Values of flags.

use crate::datapath::sizable_maps;
use clap::ValueEnum;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// How many entries a map is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MapEntries {
    pub(super) map: String,
    pub(super) entries: u32,
}

impl FromStr for MapEntries {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (map, entries) = text.split_once('=').ok_or("not of the form MAP=NUMBER")?;
        if !sizable_maps().any(|sizable| sizable == map) {
            let maps: Vec<_> = sizable_maps().collect();
            return Err(format!("{map:?} is not one of {}", maps.join(", ")));
        }
        let number = entries.parse().ok().filter(|entries| *entries > 0);
        let entries =
            number.ok_or_else(|| format!("{map}: {entries:?} is not a number of entries"))?;
        Ok(Self { map: map.to_owned(), entries })
    }
}
