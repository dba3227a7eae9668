//! The cells of a row of CSV. Pure. A quoted cell ends on its line.

/// The characters that separate cells.
const DELIMITERS: [char; 3] = [',', ';', '\t'];

/// The character that separates the cells of this row: the most frequent of comma, semicolon and tab.
pub(crate) fn delimiter(row: &str) -> char {
    let count = |delimiter: char| row.matches(delimiter).count();
    // `max_by_key` returns the last of several equal counts. The order is reversed, so that the comma is returned.
    DELIMITERS.into_iter().rev().max_by_key(|&delimiter| count(delimiter)).unwrap_or(',')
}

/// The cells of a row, without quotation marks and without white space around them; at least one.
pub(crate) fn cells(row: &str, delimiter: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(row);
    // A long row mostly has no quotation mark. The search for one in each cell would take most of the time.
    let has_quotes = row.contains('"');
    std::iter::from_fn(move || {
        let row = rest?;
        let quoted = if has_quotes { quoted(row, delimiter) } else { None };
        let (cell, after) = quoted.unwrap_or_else(|| split(row, delimiter));
        rest = after;
        Some(cell.trim())
    })
}

/// The first cell of a row, if it is quoted, and the text after it.
fn quoted(row: &str, delimiter: char) -> Option<(&str, Option<&str>)> {
    let (cell, after) = row.trim_start_matches(' ').strip_prefix('"')?.split_once('"')?;
    let (gap, after) = split(after, delimiter);
    gap.trim().is_empty().then_some((cell, after))
}

/// The text before the first delimiter, and the text after it if there is one.
fn split(text: &str, delimiter: char) -> (&str, Option<&str>) {
    text.split_once(delimiter).map_or((text, None), |(before, after)| (before, Some(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_may_be_quoted_and_separated_by_comma_semicolon_or_tab() {
        let found = |row| cells(row, delimiter(row)).collect::<Vec<_>>();
        assert_eq!(found("a, b ,"), ["a", "b", ""]);
        assert_eq!(found("1,5;2;3"), ["1,5", "2", "3"]);
        assert_eq!(found("a\t\"b c\""), ["a", "b c"]);
        assert_eq!(found("\"a, b\" ,c,\"\""), ["a, b", "c", ""]);
        assert_eq!(found("\"open,c"), ["\"open", "c"]);
        assert_eq!(found("\t\"a\""), ["", "a"]);
        assert_eq!(found("\"5\"6"), ["\"5\"6"]);
        assert_eq!(found(""), [""]);
    }
}
