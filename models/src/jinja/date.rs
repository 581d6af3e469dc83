//! The date that templates see in place of the current one, so that a prompt does not depend on it.

use std::fmt;
use std::str::FromStr;

use crate::error::{InvalidKind, ModelError};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A day in the years 1 to 9999, at midnight.
///
/// The default is 2024-07-26, the date that the templates of Llama 3 use where there is no clock.
///
/// # Examples
/// ```
/// use dissent_models::template::TemplateDate;
///
/// let date: TemplateDate = "2026-02-28".parse()?;
/// assert_eq!(date.to_string(), "2026-02-28");
/// assert_eq!(date.format("%d %b %Y"), Ok("28 Feb 2026".to_owned()));
/// assert!("2026-02-29".parse::<TemplateDate>().is_err());
/// # Ok::<(), dissent_models::ModelError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateDate {
    year: u16,
    month: u8,
    day: u8,
}

impl Default for TemplateDate {
    fn default() -> Self {
        Self { year: 2024, month: 7, day: 26 }
    }
}

/// As `YYYY-MM-DD`.
impl fmt::Display for TemplateDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Parses `YYYY-MM-DD`.
impl FromStr for TemplateDate {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let parse = || {
            let [year, month, day] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
            let number = |digits: &str, length: usize| {
                (digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .then(|| digits.parse::<u16>().ok())?
            };
            let date = Self {
                year: number(year, 4)?,
                month: number(month, 2)?.try_into().ok()?,
                day: number(day, 2)?.try_into().ok()?,
            };
            let valid = date.year > 0
                && (1..=12).contains(&date.month)
                && (1..=date.days_in_month(date.month)).contains(&date.day);
            valid.then_some(date)
        };
        parse().ok_or_else(|| {
            ModelError::invalid(
                InvalidKind::Template,
                format!("template date {text:?} is not a day: use YYYY-MM-DD, such as 2026-01-31"),
            )
        })
    }
}

impl TemplateDate {
    fn days_in_month(self, month: u8) -> u8 {
        let leap =
            self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Returns the number of the day in its year, from 1.
    fn day_of_year(self) -> u16 {
        (1..self.month).map(|month| u16::from(self.days_in_month(month))).sum::<u16>() + u16::from(self.day)
    }

    /// Returns the day of the week: 0 is Sunday.
    fn weekday(self) -> usize {
        let before = u32::from(self.year) - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400 + u32::from(self.day_of_year());
        (days % 7) as usize
    }

    /// Formats the date as Python's `strftime` does in the C locale.
    ///
    /// # Errors
    /// If the format has an unknown directive; the message names it.
    pub fn format(&self, format: &str) -> Result<String, String> {
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            let directive = characters.next();
            let (unpadded, directive) =
                if directive == Some('-') { (true, characters.next()) } else { (false, directive) };
            let part = directive.and_then(|directive| self.directive(directive)).ok_or_else(|| {
                let name = directive.map(String::from).unwrap_or_default();
                format!("strftime directive \"%{name}\" is not supported")
            })?;
            let digits = unpadded && part.starts_with(|first: char| first.is_ascii_digit() || first == ' ');
            let trimmed = part.trim_start_matches(['0', ' ']);
            text.push_str(match (digits, trimmed) {
                (true, "") => "0",
                (true, trimmed) => trimmed,
                (false, _) => &part,
            });
        }
        Ok(text)
    }

    fn directive(self, directive: char) -> Option<String> {
        let (month, day) = (MONTHS[usize::from(self.month) - 1], DAYS[self.weekday()]);
        Some(match directive {
            '%' => "%".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year()),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => day.to_owned(),
            'a' => day[..3].to_owned(),
            'w' => self.weekday().to_string(),
            'u' => (if self.weekday() == 0 { 7 } else { self.weekday() }).to_string(),
            'F' => self.to_string(),
            'D' | 'x' => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
            'H' | 'M' | 'S' => "00".to_owned(),
            'I' => "12".to_owned(),
            'p' => "AM".to_owned(),
            'f' => "000000".to_owned(),
            'T' | 'X' => "00:00:00".to_owned(),
            'R' => "00:00".to_owned(),
            'z' | 'Z' => String::new(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Python's `datetime.strftime`.
    #[test]
    fn dates_are_formatted_as_in_python() {
        let date: TemplateDate = "2024-02-09".parse().expect("a date");
        for (format, expected) in [
            ("%d %b %Y", "09 Feb 2024"),
            ("%Y-%m-%d", "2024-02-09"),
            ("%A, %B %-d, %y", "Friday, February 9, 24"),
            ("%e|%j|%w|%u|%a|%F|%D", " 9|040|5|5|Fri|2024-02-09|02/09/24"),
            ("%H:%M:%S %I %p %T %-H", "00:00:00 12 AM 00:00:00 0"),
            ("100%%", "100%"),
        ] {
            assert_eq!(date.format(format).as_deref(), Ok(expected), "{format}");
        }
        let default = TemplateDate::default();
        assert_eq!(default.format("%A %d %b %Y").as_deref(), Ok("Friday 26 Jul 2024"));
        assert!(default.format("%Q").expect_err("unknown").contains("%Q"));
        assert!(default.format("%").is_err());
    }

    #[test]
    fn only_days_are_dates() {
        for wrong in [
            "",
            "2024",
            "2024-13-01",
            "2024-00-10",
            "2023-02-29",
            "24-01-01",
            "2024-1-1",
            "0000-01-01",
            "2024-01-01-01",
        ] {
            assert!(wrong.parse::<TemplateDate>().is_err(), "{wrong}");
        }
        assert_eq!("2000-02-29".parse::<TemplateDate>().expect("a leap day").to_string(), "2000-02-29");
    }
}
