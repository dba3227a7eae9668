//! Quantities, as Kubernetes writes them: `2`, `0.5`, `250m`, `123456789n`. Pure.

/// The largest quantity that is accepted, in cores.
const MAX_CORES: f64 = 1e6;

/// Parses a quantity, which is finite. `None` if the text is no quantity, is too large, or has a unit for bytes.
pub fn number(text: &str) -> Option<f64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        _ => 10_f64.powi(unit.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    // A large exponent would give infinity, or with a zero before it, no number.
    number.parse::<f64>().ok().map(|number| number * scale).filter(|number| number.is_finite())
}

/// Parses a quantity of processors into cores. Rounds up to thousandths, as the HPA does (`Quantity.MilliValue`). `None`
/// if the text is no quantity, or too large.
pub fn cores(text: &str) -> Option<f64> {
    // Binary fractions are inexact: without the subtraction, a whole number of thousandths could be rounded up.
    number(text).filter(|&cores| cores <= MAX_CORES).map(|cores| (cores * 1e3 - 1e-9).ceil().max(0.0) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_rounded() {
        for (text, expected) in [("0", 0.0), ("0.0005", 0.0005), ("50m", 0.05), ("1e-4", 1e-4)] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["1e400", "0e400", "-1", "much"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn quantities_are_parsed_into_cores() {
        for (text, expected) in [
            ("1", 1.0),
            ("0", 0.0),
            ("0n", 0.0),
            ("250m", 0.25),
            ("0.1", 0.1),
            (".5", 0.5),
            ("2.", 2.0),
            ("+3", 3.0),
            ("100u", 0.001),
            ("123456789n", 0.124),
            ("290000000n", 0.29),
            ("1500000001n", 1.501),
            ("1k", 1000.0),
            ("1e2", 100.0),
            ("5E-1", 0.5),
            ("1e+1", 10.0),
        ] {
            assert_eq!(cores(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "m",
            ".",
            "1.2.3",
            "-1",
            "-250m",
            "+-1",
            "++1",
            "one",
            "NaN",
            "inf",
            "1 m",
            "1mm",
            "1x",
            "1Ki",
            "0x10",
            "1e",
            "1e1e1",
            "1e999999999999",
            "1e400",
            "2M",
            "1e7",
            "٣",
            "1\0",
        ] {
            assert_eq!(cores(text), None, "{text:?}");
        }
    }
}
