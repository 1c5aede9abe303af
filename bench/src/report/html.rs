//! `report.html`: one file, with everything in it.

use super::{Section, plot::Plot, text};
use crate::run::Run;
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:84em;padding:0 1em}\
    pre{overflow-x:auto;background:#f6f6f6;padding:1em;line-height:1.2}\
    figure{display:inline-block;margin:.5em;vertical-align:top}figcaption{font-weight:bold}\
    td{padding-right:1em}";

/// The whole page.
pub(super) fn page(run: &Run, sections: &[Section], plots: &[Plot]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>datapath: benchmark</title>\
         <style>{STYLE}</style><h1>datapath: benchmark</h1><table>"
    );
    for (name, value) in text::machine(run) {
        write!(page, "<tr><td>{name}<td>{}", escape(&value)).expect("writing to a string");
    }
    write!(page, "</table><p>{}", escape(&text::method(run))).expect("writing to a string");
    for Section { title, table } in sections {
        let (title, table) = (escape(title), escape(table));
        write!(page, "<h2>{title}</h2><pre>{table}</pre>").expect("writing to a string");
    }
    page.push_str("<h2>Plots</h2>");
    for Plot { name: _, title, svg } in plots {
        let title = escape(title);
        write!(page, "<figure><figcaption>{title}</figcaption>{svg}</figure>")
            .expect("writing to a string");
    }
    page.push('\n');
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
