//! The rows, one file for each part of the reference.

mod affinity;
mod choice;
mod cluster;
mod flows;
mod frontends;
mod health;
mod masquerade;
mod nodes;
mod objects;
mod policies;
mod upstream;

use super::case::Case;

pub use upstream::NOT_APPLICABLE;

/// The whole table, in the order of the reference.
pub fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        objects::cases(),
        frontends::cases(),
        choice::cases(),
        policies::cases(),
        affinity::cases(),
        masquerade::cases(),
        health::cases(),
        flows::cases(),
        nodes::cases(),
        cluster::cases(),
        upstream::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    cases.sort_by_key(|case| number(case.section));
    cases
}

/// A section as its numbers.
fn number(section: &str) -> Vec<u32> {
    section.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect()
}

/// The cases that have one of the words in their name, section or title; all without words.
pub fn select(words: &[String]) -> Vec<Case> {
    let mut cases = all();
    cases.retain(|case| {
        let matches = |word: &String| {
            case.name.contains(word.as_str())
                || case.title.contains(word.as_str())
                || case.section == word
        };
        words.is_empty() || words.iter().any(matches)
    });
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fit_for_services() {
        let mut names = BTreeSet::new();
        for case in all() {
            assert!(names.insert(case.name), "{} twice", case.name);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(case.name.len() <= 40 && case.name.chars().all(plain), "{}", case.name);
        }
    }
}
