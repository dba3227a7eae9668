//! The size of the processor's second-level cache, by which convolutions are divided into rounds.

use std::sync::OnceLock;

/// The size where the operating system does not tell it: that of most processors of clouds, or less.
const DEFAULT_BYTES: usize = 512 << 10;

/// The range of sizes that are believed. A virtual machine may be told a size of zero, or that of a shared cache.
const BELIEVED_BYTES: std::ops::RangeInclusive<usize> = 128 << 10..=4 << 20;

/// Bytes of the second-level cache of a core. Read once, because a processor does not change.
pub(crate) fn second_level_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let read = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok();
        read.and_then(|size| parse(&size)).unwrap_or(DEFAULT_BYTES)
    })
}

/// The bytes that Linux writes as `512K` or `1M`. `None` if the text has another form or the size is not believed.
fn parse(size: &str) -> Option<usize> {
    let size = size.trim();
    let (digits, unit) = size.split_at_checked(size.len().checked_sub(1)?)?;
    let unit = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|bytes| BELIEVED_BYTES.contains(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plausible_sizes_are_believed() {
        for (text, expected) in [
            ("1024K\n", Some(1 << 20)),
            ("512K", Some(512 << 10)),
            ("2M\n", Some(2 << 20)),
            ("0K\n", None),
            ("32768K\n", None),
            ("99999999999999999999K", None),
            ("18446744073709551615M", None),
            ("K", None),
            ("", None),
            ("512", None),
            ("5é", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
