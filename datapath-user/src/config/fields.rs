//! A file's fields by their paths: each is taken by whoever knows it, what is left is unknown.

use serde_json::{Map, Value};
use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
    str::FromStr,
};

/// What is to be said about a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// Path of the field: `iptables.masqueradeBit`.
    pub field: String,
    /// Its value as JSON.
    pub value: String,
    /// What about it.
    pub reason: String,
}

impl Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, reason } = self;
        write!(f, "{field}: {value}: {reason}")
    }
}

/// The fields that nobody has taken yet, and what was found about the others.
#[derive(Debug, Default)]
pub(super) struct Fields {
    root: Map<String, Value>,
    pub(super) wrong: Vec<Remark>,
    pub(super) warnings: Vec<Remark>,
}

impl Fields {
    pub(super) fn new(root: Map<String, Value>) -> Self {
        Self { root, ..Self::default() }
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, field: &str) -> Option<String> {
        match self.take(field)? {
            Value::String(text) => Some(text).filter(|text| !text.is_empty()),
            other => self.reject(field, &other, "not a text"),
        }
    }

    /// A text that means something; an empty one means the default.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, field: &str) -> Option<T> {
        let text = self.text(field)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => self.reject(field, &text.into(), error),
        }
    }

    /// True or false.
    pub(super) fn switch(&mut self, field: &str) -> Option<bool> {
        match self.take(field)? {
            Value::Bool(on) => Some(on),
            other => self.reject(field, &other, "neither true nor false"),
        }
    }

    /// A whole number of a range.
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        field: &str,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let value = self.take(field)?;
        let number = value.as_i64().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).or_else(|| {
            let (first, last) = (range.start(), range.end());
            self.reject(field, &value, format!("not a whole number from {first} to {last}"))
        })
    }

    /// A list of texts.
    pub(super) fn list(&mut self, field: &str) -> Option<Vec<String>> {
        let value = self.take(field)?;
        let texts = value.as_array().map(|list| list.iter().map(Value::as_str).collect());
        match texts {
            Some(Some(texts)) => {
                let texts: Vec<&str> = texts;
                Some(texts.into_iter().map(String::from).collect())
            }
            _ => self.reject(field, &value, "not a list of texts"),
        }
    }

    /// Notes that the value is wrong.
    pub(super) fn reject<T>(
        &mut self,
        field: &str,
        value: &Value,
        reason: impl Display,
    ) -> Option<T> {
        self.wrong.push(remark(field, value, reason));
        None
    }

    /// Notes that the value is not what it seems.
    pub(super) fn warn(&mut self, field: &str, value: &Value, reason: impl Display) {
        self.warnings.push(remark(field, value, reason));
    }

    /// Takes a field that has no effect here, or a whole mapping of them: each that is set to
    /// anything but nothing, or `usual`, is worth a warning.
    pub(super) fn without_effect(&mut self, field: &str, usual: &[&str], reason: &str) {
        let Some(value) = self.take(field) else { return };
        let warnings = &mut self.warnings;
        leaves(field, &value, &mut |field, value| {
            let text = value.as_str().map_or_else(|| value.to_string(), String::from);
            if !is_nothing(value) && !usual.contains(&text.as_str()) {
                warnings.push(remark(field, value, reason));
            }
        });
    }

    /// Notes that what is left is unknown.
    pub(super) fn finish(&mut self) {
        let left = Value::Object(std::mem::take(&mut self.root));
        let warnings = &mut self.warnings;
        leaves("", &left, &mut |field, value| {
            warnings.push(remark(field, value, "an unknown field, ignored"));
        });
    }

    /// Takes a field that is there and not null.
    pub(super) fn take(&mut self, path: &str) -> Option<Value> {
        let mut section = &mut self.root;
        let mut rest = path;
        while let Some((name, tail)) = rest.split_once('.') {
            if section.get(name).is_some_and(|value| !value.is_object() && !value.is_null()) {
                let value = section.remove(name)?;
                let outer = path.strip_suffix(tail)?.trim_end_matches('.').to_owned();
                return self.reject(&outer, &value, "not a mapping");
            }
            section = section.get_mut(name)?.as_object_mut()?;
            rest = tail;
        }
        section.remove(rest).filter(|value| !value.is_null())
    }
}

fn remark(field: &str, value: &Value, reason: impl Display) -> Remark {
    Remark { field: field.to_owned(), value: value.to_string(), reason: reason.to_string() }
}

/// Whether the value is Go's zero value, or a zero written as a text.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s"),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Calls `visit` with each value that is not a mapping, and its path.
fn leaves(path: &str, value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    let Value::Object(fields) = value else {
        return visit(path, value);
    };
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        leaves(&path, value, visit);
    }
}
