//! Tables in CSV with a column of times and a column of rates, or of rates only. A header is optional. A rate holds
//! until the time of the next row.

use crate::cells::{cells, delimiter};
use crate::error::{Error, Reason};
use crate::file::{LineParser, WorkloadFile};
use crate::format::WorkloadFormat;
use crate::lines::Line;
use crate::timestamp::Timestamp;
use crate::unit::Unit;
use crate::{MAX_SECONDS, Workload};

/// Names of columns of times, in lower case.
const TIMES: [&str; 11] =
    ["second", "seconds", "sec", "t", "time", "timestamp", "datetime", "date", "ts", "minute", "minutes"];

/// Those of [`TIMES`] whose numbers are minutes.
const MINUTES: [&str; 2] = ["minute", "minutes"];

/// Those of [`TIMES`] whose numbers are seconds in any case.
const SECONDS: [&str; 3] = ["second", "seconds", "sec"];

/// Names of columns of rates per second, in lower case.
const RATES: [&str; 5] = ["rate", "rps", "qps", "req/s", "requests_per_second"];

/// Names of columns of requests in the unit of the times, in lower case.
const COUNTS: [&str; 6] = ["requests", "count", "counts", "value", "invocations", "load"];

/// The columns of a table.
#[derive(Debug, Clone, Copy)]
struct Columns {
    delimiter: char,
    /// The number of cells in a row.
    width: usize,
    /// The column of times. Without it, each row is one unit.
    time: Option<usize>,
    rate: usize,
    /// The unit of times that are no dates and no epoch times.
    time_unit: Unit,
    /// The unit of the numbers of requests.
    rate_unit: Unit,
}

/// Whether this line is the header of a table: several cells, of which none is a number or a date; or one cell that is
/// the name of a column of rates.
pub(crate) fn is_header(line: &str) -> bool {
    let cells: Vec<&str> = cells(line, delimiter(line)).collect();
    match cells[..] {
        [name] => is_one_of(name, &RATES) || is_one_of(name, &COUNTS),
        _ => cells.iter().all(|cell| Timestamp::parse(cell).is_none()),
    }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

impl Columns {
    /// The columns that a header names. `unit` is the unit of the numbers if the names do not say it.
    fn named(line: Line<'_>, unit: Unit) -> Result<Self, Error> {
        let header = line.content();
        let delimiter = delimiter(header);
        let names: Vec<&str> = cells(header, delimiter).collect();
        let position = |known: &[&str]| names.iter().position(|name| is_one_of(name, known));
        let (time, per_second, count) = (position(&TIMES), position(&RATES), position(&COUNTS));
        // Beside a single column of times, any other column has the rates: some programs name it after what they count.
        let other = time.filter(|_| names.len() == 2).map(|time| 1 - time);
        let rate = per_second.or(count).or(other).ok_or_else(|| line.error(header, |_| Reason::NoRates))?;
        if time.is_none() && names.len() > 1 {
            return Err(line.error(header, |_| Reason::NoTimes));
        }
        let time_unit = match time.map(|time| names[time]) {
            Some(name) if is_one_of(name, &MINUTES) => Unit::Minute,
            Some(name) if is_one_of(name, &SECONDS) => Unit::Second,
            _ => unit,
        };
        let in_minutes = unit == Unit::Minute || time_unit == Unit::Minute;
        let rate_unit = if in_minutes && per_second.is_none() { Unit::Minute } else { Unit::Second };
        Ok(Self { delimiter, width: names.len(), time, rate, time_unit, rate_unit })
    }

    /// The columns of a table without a header, from its first row.
    fn unnamed(line: Line<'_>, unit: Unit) -> Result<Self, Error> {
        let row = line.content();
        let delimiter = delimiter(row);
        let (time, rate, width) = match cells(row, delimiter).count() {
            1 => (None, 0, 1),
            2 => (Some(0), 1, 2),
            _ => return Err(line.error(row, |_| Reason::NoRates)),
        };
        Ok(Self { delimiter, width, time, rate, time_unit: unit, rate_unit: unit })
    }
}

/// The rate of the row that was read last.
#[derive(Debug, Clone, Copy)]
struct LastRow {
    /// The time of the row, in seconds since the first row.
    second: f64,
    /// The rate, in requests per second.
    rate: f64,
}

/// Reads a table.
#[derive(Debug)]
pub(crate) struct Table {
    unit: Unit,
    /// `None` until the first line with content was read.
    columns: Option<Columns>,
    first: Option<Timestamp>,
    last: Option<LastRow>,
    per_second: Vec<f64>,
}

impl Table {
    /// Reads a table. `unit` is the unit of numbers if their columns do not say it.
    pub(crate) fn new(unit: Unit) -> Self {
        Self { unit, columns: None, first: None, last: None, per_second: Vec::new() }
    }

    fn row(&mut self, columns: Columns, line: Line<'_>) -> Result<(), Error> {
        let row = line.content();
        let (mut found, mut time_cell, mut rate_cell) = (0, row, row);
        for cell in cells(row, columns.delimiter) {
            if Some(found) == columns.time {
                time_cell = cell;
            }
            if found == columns.rate {
                rate_cell = cell;
            }
            found += 1;
        }
        if found != columns.width {
            return Err(line.error(row, |_| Reason::Width { found, expected: columns.width }));
        }
        let max = columns.rate_unit.max() as u64;
        let requests = columns.rate_unit.parse(rate_cell);
        let requests = requests.ok_or_else(|| line.error(rate_cell, |word| Reason::Number { word, max }))?;
        if columns.time.is_none() {
            return columns.rate_unit.append(requests, &mut self.per_second);
        }
        let time = Timestamp::parse(time_cell);
        let first = self.first.or(time);
        let second = time.zip(first).and_then(|(time, first)| time.since(first, columns.time_unit.seconds() as f64));
        let second = second.ok_or_else(|| line.error(time_cell, |word| Reason::Time { word }))?;
        if self.last.is_some_and(|last| second <= last.second) {
            return Err(line.error(time_cell, |word| Reason::Order { word }));
        }
        if second >= MAX_SECONDS as f64 {
            return Err(Error::Long);
        }
        self.hold_until(second);
        self.first = first;
        self.last = Some(LastRow { second, rate: columns.rate_unit.rate(requests) });
        Ok(())
    }

    /// Adds the rate of the last row from its time until `end`, in seconds since the first row. A second with several
    /// rates gets their mean, weighted by time.
    fn hold_until(&mut self, end: f64) {
        let Some(LastRow { second: start, rate }) = self.last else { return };
        for second in start as usize..end.ceil() as usize {
            if second >= self.per_second.len() {
                self.per_second.push(0.0);
            }
            let overlap = end.min((second + 1) as f64) - start.max(second as f64);
            self.per_second[second] += rate * overlap;
        }
    }
}

impl LineParser for Table {
    fn line(&mut self, line: Line<'_>) -> Result<(), Error> {
        let content = line.content();
        if content.is_empty() {
            return Ok(());
        }
        match self.columns {
            Some(columns) => self.row(columns, line),
            None if is_header(content) => {
                self.columns = Some(Columns::named(line, self.unit)?);
                Ok(())
            }
            None => {
                let columns = Columns::unnamed(line, self.unit)?;
                self.columns = Some(columns);
                self.row(columns, line)
            }
        }
    }

    /// The rate of the last row holds until the end of its second or minute.
    fn finish(mut self: Box<Self>) -> Result<WorkloadFile, Error> {
        let unit = self.columns.as_ref().map_or(self.unit, |columns| columns.rate_unit);
        let row_unit = self.columns.as_ref().map_or(unit, |columns| columns.time_unit);
        if let Some(last) = self.last {
            let step = unit.seconds().max(row_unit.seconds()) as f64;
            let end = ((last.second / step).floor() + 1.0) * step;
            if end > MAX_SECONDS as f64 {
                return Err(Error::Long);
            }
            self.hold_until(end);
        }
        Ok(WorkloadFile { workload: Workload { per_second: self.per_second }, format: WorkloadFormat::Table(unit) })
    }
}
