//! The formats of workload files, and which of them a file has. Pure.

use crate::cells::{cells, delimiter};
use crate::timestamp::Timestamp;
use crate::unit::Unit;
use crate::{functions, table};
use std::fmt;
use std::str::FromStr;

/// The format that a file is said to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FormatChoice {
    /// The format is recognised from the content.
    #[default]
    Auto,
    /// Numbers, one for each second.
    Counts,
    /// Rows of CSV with a time and a rate.
    Csv,
    /// A list of numbers in square brackets.
    Json,
    /// Any format whose numbers are the requests of a minute.
    Minutes,
}

/// The choices with their names.
const CHOICES: [(&str, FormatChoice); 5] = [
    ("auto", FormatChoice::Auto),
    ("counts", FormatChoice::Counts),
    ("csv", FormatChoice::Csv),
    ("json", FormatChoice::Json),
    ("minutes", FormatChoice::Minutes),
];

/// The error that a text names no [`FormatChoice`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such format; the formats are auto, counts, csv, json and minutes")]
pub struct UnknownFormat;

impl FromStr for FormatChoice {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        CHOICES.iter().find(|(name, _)| *name == text).map(|&(_, choice)| choice).ok_or(UnknownFormat)
    }
}

impl fmt::Display for FormatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CHOICES.iter().find(|(_, choice)| choice == self).map_or("", |(name, _)| name))
    }
}

impl FormatChoice {
    /// The unit of numbers of which the file itself does not say the unit.
    pub(crate) fn unit(self) -> Unit {
        if self == Self::Minutes { Unit::Minute } else { Unit::Second }
    }
}

/// The format that a workload was read from, with the unit of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadFormat {
    /// Bare numbers.
    Numbers(Unit),
    /// A list in square brackets.
    List(Unit),
    /// CSV with a column of rates.
    Table(Unit),
    /// CSV with a row for each function and a column for each minute, as in Azure's traces of functions.
    Functions,
}

impl fmt::Display for WorkloadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Numbers(Unit::Second) => "numbers, one for each second",
            Self::Numbers(Unit::Minute) => "numbers, one for each minute",
            Self::List(Unit::Second) => "list with a number for each second",
            Self::List(Unit::Minute) => "list with a number for each minute",
            Self::Table(Unit::Second) => "CSV with rates per second",
            Self::Table(Unit::Minute) => "CSV with requests per minute",
            Self::Functions => "CSV with a row for each function and a column for each minute",
        })
    }
}

/// The arrangement of numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrangement {
    Numbers,
    List,
    Table,
    Functions,
}

/// The arrangement of a file that begins with these lines, which have no comments and are not empty.
pub(crate) fn recognise(lines: &[&str], choice: FormatChoice) -> Arrangement {
    let first = lines.first().copied().unwrap_or_default();
    match choice {
        FormatChoice::Counts => Arrangement::Numbers,
        FormatChoice::Json => Arrangement::List,
        _ if functions::is_header(first) => Arrangement::Functions,
        FormatChoice::Csv => Arrangement::Table,
        _ if is_list(first) => Arrangement::List,
        _ if table::is_header(first) || has_pairs(lines) => Arrangement::Table,
        _ => Arrangement::Numbers,
    }
}

/// Whether a list begins in this line: `[7, 6`, `{"workload": [7, 6` or `workload = [7, 6`.
fn is_list(line: &str) -> bool {
    line.starts_with(['[', '{']) || line.split_once('[').is_some_and(|(before, _)| before.contains('='))
}

/// Whether every line is a time and a rate without a header. One such line could as well be two numbers, unless the
/// time is a date.
fn has_pairs(lines: &[&str]) -> bool {
    let first = lines.first().copied().unwrap_or_default();
    let delimiter = delimiter(first);
    let is_pair = |line: &&str| {
        let cells: Vec<&str> = cells(line, delimiter).take(3).collect();
        cells.len() == 2 && cells.iter().all(|cell| !cell.is_empty())
    };
    // White space separates numbers, so a tab does, too.
    if delimiter == '\t' || !lines.iter().all(is_pair) {
        return false;
    }
    match cells(first, delimiter).next().and_then(Timestamp::parse) {
        Some(Timestamp::Date(_)) => true,
        Some(Timestamp::Number(_)) => lines.len() > 1,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_tell_the_arrangement() {
        use Arrangement::{Functions, List, Numbers, Table};
        for (text, expected) in [
            ("7 6 7", Numbers),
            ("7, 6, 7", Numbers),
            ("7,6", Numbers),
            ("7;6\n8;9;3", Numbers),
            ("7, 6,\n8, 9,", Numbers),
            ("7,\n6,", Numbers),
            ("0\t5\n1\t6", Numbers),
            ("5 x", Numbers),
            ("x", Numbers),
            ("", Numbers),
            ("[7, 6]", List),
            ("[", List),
            ("{\"workload\": [7]}", List),
            ("workload = [", List),
            ("0,5\n1,6", Table),
            ("0;5\n1;6", Table),
            ("1769860800,5\n1769860801,6", Table),
            ("2026-01-31T12:00:00Z,5", Table),
            ("second,rate", Table),
            ("a,b", Table),
            ("rps", Table),
            ("\"Time\"\t\"Value\"", Table),
            ("HashOwner,HashApp,HashFunction,Trigger,1,2,3", Functions),
        ] {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(recognise(&lines, FormatChoice::Auto), expected, "{text:?}");
        }
        assert_eq!(recognise(&["7 6"], FormatChoice::Json), List);
        assert_eq!(recognise(&["7 6"], FormatChoice::Csv), Table);
        assert_eq!(recognise(&["0,5", "1,6"], FormatChoice::Counts), Numbers);
    }

    #[test]
    fn choices_are_named_as_they_are_shown() {
        for (name, choice) in CHOICES {
            assert_eq!((name.parse(), choice.to_string()), (Ok(choice), name.to_owned()));
        }
        assert!("xml".parse::<FormatChoice>().expect_err("refused").to_string().contains("auto, counts, csv"));
    }
}
