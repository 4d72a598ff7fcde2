//! Moments as RFC 3339 text in UTC, to the second or millisecond.

/// Seconds in a day.
const DAY_S: i64 = 86_400;
/// The last second that four digits of a year can write: 9999-12-31T23:59:59Z.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Writes Unix milliseconds as `2016-12-15T09:00:00.250Z`; whole seconds without the fraction. Later moments than the
/// year 9999 are written as its end.
pub fn format_ms(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1_000, unix_ms % 1_000);
    let seconds = seconds.min(SECONDS_MAX) as i64;
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_S));
    let of_day = seconds.rem_euclid(DAY_S);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let fraction = if ms == 0 { String::new() } else { format!(".{ms:03}") };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Writes Unix seconds.
pub fn format_s(unix_s: u32) -> String {
    format_ms(u64::from(unix_s) * 1_000)
}

/// Reads whole seconds in UTC (`2016-12-15T09:00:00Z`); `None` for any other text or before 1970.
pub fn parse_s(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 20 || [4, 7, 10, 13, 16, 19].map(|place| bytes[place]) != *b"--T::Z" {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = &bytes[from..to];
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = days_from_civil(year, month, day);
    let exists = civil_from_days(days) == (year, month, day);
    let in_day = hour < 24 && minute < 60 && second < 60;
    let seconds = days * DAY_S + hour * 3_600 + minute * 60 + second;
    if exists && in_day { u64::try_from(seconds).ok() } else { None }
}

/// The date of a day counted from 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil_from_days`]; dates that do not exist give those of another date.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_and_read() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_481_792_400, "2016-12-15T09:00:00Z"),
            (4_294_967_295, "2106-02-07T06:28:15Z"),
        ] {
            assert_eq!(format_ms(seconds * 1_000), text);
            assert_eq!(parse_s(text), Some(seconds));
        }
        assert_eq!(format_ms(1_481_792_400_250), "2016-12-15T09:00:00.250Z");
        assert_eq!(format_ms(u64::MAX / 2), "9999-12-31T23:59:59.807Z");
    }

    #[test]
    fn every_day_of_four_centuries_round_trips() {
        for day in 0..146_097 {
            let (year, month, date) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, date), day);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "2016-12-15",
            "2016-12-15T09:00:00",
            "2016-12-15t09:00:00Z",
            "2016-13-15T09:00:00Z",
            "2015-02-29T09:00:00Z",
            "2016-12-15T24:00:00Z",
            "2016-12-15T09:60:00Z",
            "2016-12-15T09:00:60Z",
            "-016-12-15T09:00:00Z",
            "2016-12-15T09:00:00+",
            "1969-12-31T23:59:59Z",
            "２016-12-15T09:00Z",
        ] {
            assert_eq!(parse_s(text), None, "{text}");
        }
    }
}
