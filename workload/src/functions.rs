//! Traces of functions in the format of Azure's public data set: a header `HashOwner,HashApp,HashFunction,Trigger,1,2`
//! and so on, and a row for each function with its number of requests in each minute. The rows are added up.

use crate::cells::{cells, delimiter};
use crate::error::{Error, Reason};
use crate::file::{LineParser, WorkloadFile};
use crate::format::WorkloadFormat;
use crate::lines::Line;
use crate::unit::Unit;
use crate::{MAX_SECONDS, Workload};

/// Name of the column with the function of a row, in lower case.
const FUNCTION: &str = "hashfunction";

/// The columns of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Columns {
    delimiter: char,
    /// The column with the function of a row.
    function: Option<usize>,
    /// The column of the first minute.
    first_minute: usize,
    /// The number of minutes.
    minutes: usize,
}

/// Whether this line is the header of a trace of functions.
pub(crate) fn is_header(line: &str) -> bool {
    columns(line).is_some()
}

/// The columns that a header names: some names, and then the numbers from 1 to at least 2.
fn columns(header: &str) -> Option<Columns> {
    let delimiter = delimiter(header);
    let names: Vec<&str> = cells(header, delimiter).collect();
    let first_minute = names.iter().position(|&name| name == "1")?;
    let (described, numbered) = names.split_at(first_minute);
    let is_named = !described.is_empty() && described.iter().all(|name| name.parse::<f64>().is_err());
    let is_numbered =
        numbered.len() > 1 && numbered.iter().zip(1_usize..).all(|(name, number)| name.parse() == Ok(number));
    let function = described.iter().position(|name| name.eq_ignore_ascii_case(FUNCTION));
    (is_named && is_numbered).then_some(Columns { delimiter, function, first_minute, minutes: numbered.len() })
}

/// Adds up the rows of a trace.
#[derive(Debug)]
pub(crate) struct Functions {
    /// The function whose rows count; all rows count if it is `None`.
    chosen: Option<String>,
    /// `None` until the header was read.
    columns: Option<Columns>,
    /// The number of rows that count.
    rows: usize,
    per_minute: Vec<f64>,
}

impl Functions {
    /// Adds up the rows of the function `chosen`, or all rows.
    pub(crate) fn new(chosen: Option<String>) -> Self {
        Self { chosen, columns: None, rows: 0, per_minute: Vec::new() }
    }

    /// Reads the header.
    fn header(&mut self, header: &str) -> Result<(), Error> {
        let columns = columns(header).expect("only a file that begins with a header is read as a trace of functions");
        if self.chosen.is_some() && columns.function.is_none() {
            return Err(Error::NoFunctions);
        }
        if columns.minutes * Unit::Minute.seconds() > MAX_SECONDS {
            return Err(Error::Long);
        }
        self.per_minute = vec![0.0; columns.minutes];
        self.columns = Some(columns);
        Ok(())
    }
}

impl LineParser for Functions {
    fn line(&mut self, line: Line<'_>) -> Result<(), Error> {
        let text = line.content();
        if text.is_empty() {
            return Ok(());
        }
        let Some(columns) = &self.columns else { return self.header(text) };
        let mut cells = cells(text, columns.delimiter);
        let mut found = 0;
        for (column, cell) in cells.by_ref().take(columns.first_minute).enumerate() {
            found += 1;
            let is_other = |chosen: &String| Some(column) == columns.function && cell != chosen;
            if self.chosen.as_ref().is_some_and(is_other) {
                return Ok(());
            }
        }
        for cell in cells {
            if let Some(requests) = self.per_minute.get_mut(found - columns.first_minute) {
                let max = Unit::Minute.max();
                *requests += Unit::Minute
                    .parse(cell)
                    .ok_or_else(|| line.error(cell, |word| Reason::Number { word, max: max as u64 }))?;
            }
            found += 1;
        }
        let expected = columns.first_minute + columns.minutes;
        if found != expected {
            return Err(line.error(text, |_| Reason::Width { found, expected }));
        }
        self.rows += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<WorkloadFile, Error> {
        match self.chosen {
            Some(function) if self.rows == 0 => return Err(Error::NoFunction { function }),
            None if self.rows == 0 => return Err(Error::Empty),
            _ => {}
        }
        let mut per_second = Vec::with_capacity(self.per_minute.len() * Unit::Minute.seconds());
        for (index, &requests) in self.per_minute.iter().enumerate() {
            if requests > Unit::Minute.max() {
                return Err(Error::Busy { minute: index + 1, requests });
            }
            Unit::Minute.append(requests, &mut per_second)?;
        }
        Ok(WorkloadFile { workload: Workload { per_second }, format: WorkloadFormat::Functions })
    }
}
