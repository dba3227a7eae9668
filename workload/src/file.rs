//! Reads workload files. Only the numbers of the workload are kept in memory, and not the file.

use crate::Workload;
use crate::error::Error;
use crate::format::{self, Arrangement, FormatChoice, WorkloadFormat};
use crate::functions::Functions;
use crate::lines::{Line, Lines};
use crate::numbers::Numbers;
use crate::table::Table;
use std::io::BufRead;

/// Number of lines with content from which the format is recognised.
const SAMPLE_LINES: usize = 64;

/// Length of the lines from which the format is recognised, in bytes. A longer first line is read as a whole.
const SAMPLE_BYTES: usize = 1 << 20;

/// Length of the longest file with rows, in bytes. A day of Azure's traces of functions has 300 MB.
const MAX_ROWS_BYTES: u64 = 1 << 30;

/// What is known of a file besides its content.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// The format of the file.
    pub format: FormatChoice,
    /// The `HashFunction` of the rows that count, in a trace of functions. All rows count if it is `None`.
    pub function: Option<String>,
}

/// A workload, and the format that it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadFile {
    /// The workload.
    pub workload: Workload,
    /// The format of the file.
    pub format: WorkloadFormat,
}

/// A format: takes a file line by line.
pub(crate) trait LineParser {
    /// Takes the next line.
    fn line(&mut self, line: Line<'_>) -> Result<(), Error>;

    /// The workload of all lines. It may be empty.
    fn finish(self: Box<Self>) -> Result<WorkloadFile, Error>;
}

/// Reads a workload file.
///
/// # Errors
/// If `input` cannot be read, is too long, or is no workload of the format that is chosen or recognised.
pub fn read(input: impl BufRead, options: &ReadOptions) -> Result<WorkloadFile, Error> {
    let mut lines = Lines::new(input);
    let sample = sample(&mut lines)?;
    let contents: Vec<&str> = sample.iter().map(|(number, text)| Line { number: *number, text }.content()).collect();
    let arrangement = format::recognise(&contents, options.format);
    if arrangement != Arrangement::Functions && options.function.is_some() {
        return Err(Error::NoFunctions);
    }
    let unit = options.format.unit();
    let mut parser: Box<dyn LineParser> = match arrangement {
        Arrangement::Numbers => Box::new(Numbers::bare(unit)),
        Arrangement::List => Box::new(Numbers::list(unit)),
        Arrangement::Table => Box::new(Table::new(unit)),
        Arrangement::Functions => Box::new(Functions::new(options.function.clone())),
    };
    if matches!(arrangement, Arrangement::Table | Arrangement::Functions) {
        lines.max_bytes = MAX_ROWS_BYTES;
    }
    for (number, text) in &sample {
        parser.line(Line { number: *number, text })?;
    }
    while let Some(line) = lines.read()? {
        parser.line(line)?;
    }
    let file = parser.finish()?;
    if file.workload.per_second.is_empty() { Err(Error::Empty) } else { Ok(file) }
}

/// The first lines with content, with their numbers.
fn sample(lines: &mut Lines<impl BufRead>) -> Result<Vec<(usize, String)>, Error> {
    let (mut sample, mut bytes) = (Vec::new(), 0);
    while sample.len() < SAMPLE_LINES && bytes < SAMPLE_BYTES {
        let Some(line) = lines.read()? else { break };
        if !line.content().is_empty() {
            bytes += line.text.len();
            sample.push((line.number, line.text.to_owned()));
        }
    }
    Ok(sample)
}
