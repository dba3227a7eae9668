//! The reasons why a file is no workload.

/// The reason why a file is no workload.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A part of a line is invalid.
    #[error("line {line}, column {column}: {reason}")]
    Content {
        /// The number of the line, from 1.
        line: usize,
        /// The position of the invalid part in the line, in characters from 1.
        column: usize,
        /// The reason why the part is invalid.
        reason: Reason,
    },
    /// A line is not UTF-8.
    #[error("line {line} is not UTF-8 text; save the file as UTF-8")]
    Encoding {
        /// The number of the line, from 1.
        line: usize,
    },
    /// The file begins with the byte order mark of UTF-16, or its first line has zero bytes.
    #[error("the file is UTF-16 text or binary; save it as UTF-8 text (iconv -f UTF-16 -t UTF-8)")]
    Binary,
    /// A line is too long.
    #[error("line {line} is longer than {mebibytes} MiB; break it into several lines")]
    LongLine {
        /// The number of the line, from 1.
        line: usize,
        /// The length of the longest line that is read, in MiB.
        mebibytes: u64,
    },
    /// The file is too long.
    #[error("the file is longer than {mebibytes} MiB; shorten it")]
    LongFile {
        /// The length of the longest file of this format that is read, in MiB.
        mebibytes: u64,
    },
    /// The file has no number.
    #[error("the workload has no number; write the requests of each second, such as 5 5 20 20 5")]
    Empty,
    /// The workload is longer than [`crate::MAX_SECONDS`].
    #[error("the workload is longer than a week (604800 seconds); shorten it")]
    Long,
    /// The file has no list, although it begins like a list or is said to have one.
    #[error("the file has no list in square brackets; write one, such as [7, 6, 7]")]
    NoList,
    /// The file ends within a list.
    #[error("the list has no end; write ] after its last number")]
    OpenList,
    /// The functions of a trace have more requests in one minute than [`crate::MAX_PER_SECOND`] permits.
    #[error("minute {minute} has {requests:.0} requests, which are more than 1000000 in a second; choose one function")]
    Busy {
        /// The number of the minute, from 1 as in the header.
        minute: usize,
        /// The requests of all rows in this minute.
        requests: f64,
    },
    /// A function was chosen, but no row is of this function.
    #[error("no row has the HashFunction {function:?}; copy the HashFunction of a row")]
    NoFunction {
        /// The chosen function.
        function: String,
    },
    /// A function was chosen, but the file does not say which row is of which function.
    #[error("a function is chosen, but the file has no column HashFunction")]
    NoFunctions,
}

/// The reason why a part of a line is invalid. A word has 40 characters at most.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A word is no number of requests.
    #[error("{word:?} is no number of requests; write a number from 0 to {max}, such as 7 or 1.5")]
    Number {
        /// The word.
        word: String,
        /// The largest number that may stand here.
        max: u64,
    },
    /// A comma or a semicolon has no number before it.
    #[error("there is no number before {mark:?}; write a number, such as 0, or remove the {mark:?}")]
    Missing {
        /// The comma or the semicolon.
        mark: String,
    },
    /// Commas and semicolons separate the numbers. Some commas may be decimal ones.
    #[error(
        "{mark:?} follows numbers with another separator; use commas or semicolons, but not both, and write decimals with \
         a point, such as 1.5"
    )]
    Separators {
        /// The comma or the semicolon.
        mark: String,
    },
    /// A word follows a list.
    #[error("{word:?} follows the list; write one list only, such as [7, 6, 7]")]
    AfterList {
        /// The word.
        word: String,
    },
    /// A word is no time.
    #[error("{word:?} is no time; write seconds, an epoch time, or a date such as 2026-01-31T12:00:00Z, as in row 1")]
    Time {
        /// The word.
        word: String,
    },
    /// A time is not later than the time of the row before.
    #[error(
        "the time {word:?} is not after the time of the row before; sort the rows by time (if the file has no times, \
         separate its numbers with white space)"
    )]
    Order {
        /// The time.
        word: String,
    },
    /// A row has too few or too many cells.
    #[error("the row has {found} cells and not {expected}")]
    Width {
        /// The number of cells in the row.
        found: usize,
        /// The number of cells in the header or in the first row.
        expected: usize,
    },
    /// The header names no column that is known as a column of rates.
    #[error(
        "the header names no column of rates: name it rate, rps, qps, requests, count or value, and the column of \
         times second, time, timestamp or minute"
    )]
    NoRates,
    /// The table has several columns of rates, but no column that is known as a column of times.
    #[error("the header names no column of times: name it second, time, timestamp or minute")]
    NoTimes,
}
