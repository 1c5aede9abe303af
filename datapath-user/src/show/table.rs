//! How tables look.

use comfy_table::{CellAlignment, ContentArrangement, Table};
use datapath_common::{Addr, Be16};
use std::net::IpAddr;

/// A table without lines; columns whose header starts with `#` hold numbers and stand right.
pub(super) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.map(|name| name.trim_start_matches('#').to_uppercase()));
    table.add_rows(rows);
    for (index, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            let left = u16::from(index > 0);
            column.set_padding((left, 1));
            if name.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `10.0.0.1:80`, `[fd00::1]:80`; a wildcard address is `*`.
pub(super) fn endpoint(addr: Addr, port: Be16) -> String {
    match addr.ip() {
        _ if addr.is_unspecified() => format!("{}:{}", wildcard(addr), port.host()),
        IpAddr::V4(v4) => format!("{v4}:{}", port.host()),
        IpAddr::V6(v6) => format!("[{v6}]:{}", port.host()),
    }
}

/// What stands for any address of the node, by family.
fn wildcard(addr: Addr) -> &'static str {
    if addr.is_v4() { "*" } else { "[*]" }
}

/// A time in seconds as `90s`, `5m`, `3h`, `2d`.
pub(super) fn seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A list in a cell, with what does not fit counted.
pub(super) fn list(items: &[String], most: usize) -> String {
    let mut text = items.iter().take(most).cloned().collect::<Vec<_>>().join(",");
    if items.len() > most {
        text.push_str(",+");
        text.push_str(&(items.len() - most).to_string());
    }
    if text.is_empty() { "-".to_owned() } else { text }
}

/// `MAC` address, or `-` for zeros.
pub(super) fn mac(mac: [u8; 6]) -> String {
    if mac == [0; 6] {
        return "-".to_owned();
    }
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn columns_stand_under_their_headers() {
        let text = table(
            ["name", "#count"],
            vec![["a".into(), "5".into()], ["longer".into(), "1000".into()]],
        );
        assert_eq!(text, "NAME    COUNT\na           5\nlonger   1000\n");
    }

    #[test]
    fn endpoints_are_written_as_people_write_them() {
        let port = Be16::new(80);
        assert_eq!(endpoint(Ipv4Addr::new(10, 0, 0, 1).into(), port), "10.0.0.1:80");
        assert_eq!(endpoint(Ipv6Addr::LOCALHOST.into(), port), "[::1]:80");
        assert_eq!(endpoint(Addr::UNSPECIFIED_V4, port), "*:80");
        assert_eq!(endpoint(Addr::UNSPECIFIED_V6, port), "[*]:80");
    }

    #[test]
    fn long_lists_are_cut() {
        let items: Vec<String> = ["a", "b", "c"].map(String::from).into();
        assert_eq!(list(&items, 2), "a,b,+1");
        assert_eq!(list(&items, 3), "a,b,c");
        assert_eq!(list(&[], 3), "-");
        assert_eq!(seconds(119), "119s");
        assert_eq!(seconds(10_800), "3h");
    }
}
