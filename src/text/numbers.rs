//! Numbers formatted for people.

/// Formats a count with its noun, such as `2,000 prompts`.
pub(crate) fn count(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Returns the first 12 characters of a hash, which suffice to distinguish hashes.
pub(crate) fn fingerprint(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Formats a whole number with a comma between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a number with its sign. The minus is as wide as a plus, and zero has no sign.
pub(crate) fn signed(number: f64, digits: usize) -> String {
    let magnitude = format!("{:.digits$}", number.abs());
    let is_zero = magnitude.chars().all(|c| matches!(c, '0' | '.'));
    let sign = if is_zero {
        ""
    } else if number < 0.0 {
        "−"
    } else {
        "+"
    };
    format!("{sign}{magnitude}")
}

/// Formats a share in percent.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// Formats a number with its shortest exact digits.
pub(crate) fn short(number: f64) -> String {
    format!("{number}")
}

/// Formats an ordinal number: 1st, 2nd, 3rd, 4th.
pub(crate) fn ordinal(number: u64) -> String {
    let suffix = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_for_people() {
        assert_eq!(["1", "999", "1,000", "1,234,567"], [1, 999, 1000, 1_234_567].map(grouped));
        assert_eq!(
            ["−1.50", "+0.01", "0.00", "0.00"],
            [-1.5, 0.006, -0.001, 0.0].map(|number| signed(number, 2))
        );
        assert_eq!(["0 %", "0.4 %", "5 %", "100 %"], [0.0, 0.004, 0.05, 1.0].map(percent));
        let numbers = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111];
        let expected = ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"];
        assert_eq!(numbers.map(ordinal), expected);
        assert_eq!([count(1, "prompt"), count(2000, "prompt")], ["1 prompt", "2,000 prompts"]);
    }
}
