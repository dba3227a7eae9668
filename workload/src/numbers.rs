//! Files of bare numbers: separated by white space, commas or semicolons, or in a list of Python or JSON.

use crate::Workload;
use crate::error::{Error, Reason};
use crate::file::{LineParser, WorkloadFile};
use crate::format::WorkloadFormat;
use crate::lines::Line;
use crate::unit::Unit;

/// The characters that separate the numbers of a file without brackets.
const SEPARATORS: &[char] = &[',', ';'];

/// The characters of lists that are words of their own.
const LIST_MARKS: &[char] = &[',', ';', '[', ']', '{', '}', '(', ')', ':', '='];

/// The part of a file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The text before a list, such as `workload =` or `{"workload":`.
    BeforeList,
    /// The numbers.
    Numbers,
    /// The text after a list.
    AfterList,
}

/// Reads a file of numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    unit: Unit,
    is_list: bool,
    place: Place,
    /// Whether the list is a value of a JSON object. Other values may follow it.
    is_in_object: bool,
    /// Whether a number was read since the last comma or semicolon.
    has_number: bool,
    /// The first separator of the file.
    separator: Option<char>,
    per_second: Vec<f64>,
}

impl Numbers {
    /// Reads numbers without brackets.
    pub(crate) fn bare(unit: Unit) -> Self {
        let place = Place::Numbers;
        Self {
            unit,
            is_list: false,
            place,
            is_in_object: false,
            has_number: false,
            separator: None,
            per_second: Vec::new(),
        }
    }

    /// Reads numbers in square brackets.
    pub(crate) fn list(unit: Unit) -> Self {
        Self { is_list: true, place: Place::BeforeList, ..Self::bare(unit) }
    }

    fn number(&mut self, line: Line<'_>, word: &str) -> Result<(), Error> {
        if let Some(&separator) = SEPARATORS.iter().find(|&&separator| word.starts_with(separator)) {
            if *self.separator.get_or_insert(separator) != separator {
                return Err(line.error(word, |mark| Reason::Separators { mark }));
            }
            if !self.has_number {
                return Err(line.error(word, |mark| Reason::Missing { mark }));
            }
            self.has_number = false;
            return Ok(());
        }
        let max = self.unit.max() as u64;
        let number = self.unit.parse(word).ok_or_else(|| line.error(word, |word| Reason::Number { word, max }))?;
        self.has_number = true;
        self.unit.append(number, &mut self.per_second)
    }
}

impl LineParser for Numbers {
    fn line(&mut self, line: Line<'_>) -> Result<(), Error> {
        let marks = if self.is_list { LIST_MARKS } else { SEPARATORS };
        for word in words(line.content(), marks) {
            match (self.place, word) {
                (Place::BeforeList, "[") => self.place = Place::Numbers,
                (Place::BeforeList, _) => self.is_in_object |= word == "{",
                (Place::Numbers, "]") if self.is_list => self.place = Place::AfterList,
                (Place::Numbers, _) => self.number(line, word)?,
                (Place::AfterList, ")" | ";") => {}
                (Place::AfterList, _) if self.is_in_object && word != "[" => {}
                (Place::AfterList, _) => return Err(line.error(word, |word| Reason::AfterList { word })),
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<WorkloadFile, Error> {
        match self.place {
            Place::BeforeList => return Err(Error::NoList),
            Place::Numbers if self.is_list => return Err(Error::OpenList),
            Place::Numbers | Place::AfterList => {}
        }
        let format = if self.is_list { WorkloadFormat::List(self.unit) } else { WorkloadFormat::Numbers(self.unit) };
        Ok(WorkloadFile { workload: Workload { per_second: self.per_second }, format })
    }
}

/// The words of a text. A mark is a word of its own; white space and marks end other words.
fn words<'text>(text: &'text str, marks: &'static [char]) -> impl Iterator<Item = &'text str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = if marks.contains(&first) {
            first.len_utf8()
        } else {
            rest.find(|c: char| c.is_whitespace() || marks.contains(&c)).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}
