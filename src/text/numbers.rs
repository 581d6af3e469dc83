//! Numbers as people read them.

/// A count with its noun.
pub(crate) fn count(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// The beginning of a hash: enough to tell two apart.
pub(crate) fn fingerprint(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// A whole number with its thousands set apart.
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

/// A number with its sign, a minus that is as wide as a plus, and no negative zero.
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

/// A share in percent.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// A number with no more digits than it needs.
pub(crate) fn short(number: f64) -> String {
    format!("{number}")
}

/// 1st, 2nd, 3rd, 4th.
pub(crate) fn ordinal(place: u64) -> String {
    let suffix = match (place % 100, place % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{place}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(["1", "999", "1,000", "1,234,567"], [1, 999, 1000, 1_234_567].map(grouped));
        assert_eq!(
            ["−1.50", "+0.01", "0.00", "0.00"],
            [-1.5, 0.006, -0.001, 0.0].map(|number| signed(number, 2))
        );
        assert_eq!(["0 %", "0.4 %", "5 %", "100 %"], [0.0, 0.004, 0.05, 1.0].map(percent));
        let places = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111];
        let expected = ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"];
        assert_eq!(places.map(ordinal), expected);
        assert_eq!([count(1, "prompt"), count(2000, "prompt")], ["1 prompt", "2,000 prompts"]);
    }
}
