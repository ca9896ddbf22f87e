//! Sizes as people write them: `64M`, `1G`.

use anyhow::{Context, Result, bail};

/// Bytes of a size with the suffix `K`, `M` or `G` for powers of 1024.
///
/// # Errors
/// It is none, or too large.
pub fn parse(text: &str) -> Result<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => bail!("size {text:?} has no unit: write K, M or G behind it, as in 64M"),
    };
    let number: u64 = digits
        .parse()
        .with_context(|| format!("size {text:?} does not begin with a number"))?;
    number
        .checked_mul(1 << shift)
        .with_context(|| format!("size {text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_number_and_a_unit() {
        assert_eq!(parse("2K").unwrap(), 2048);
        assert_eq!(parse("64M").unwrap(), 64 << 20);
        assert_eq!(parse("1G").unwrap(), 1 << 30);
        for bad in ["", "64", "M", "64 M", "-1G", "18446744073709551615G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
