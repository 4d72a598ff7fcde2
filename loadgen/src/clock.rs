//! Wall-clock time as numbers and as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    u64::try_from(since.as_millis()).expect("milliseconds fit for half a billion years")
}

/// A moment as `2016-12-08T09:30:00Z`.
pub fn rfc3339(unix_ms: u64) -> String {
    let (year, month, day, second) = civil(unix_ms / 1_000);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A moment as `20161208-093000`, for names of files.
pub fn compact(unix_ms: u64) -> String {
    let digits: String = rfc3339(unix_ms).chars().filter(|character| !"-:Z".contains(*character)).collect();
    digits.replace('T', "-")
}

/// Year, month, day and second of the day (proleptic Gregorian; the algorithm of Howard Hinnant's `civil_from_days`).
fn civil(unix_s: u64) -> (u64, u64, u64, u64) {
    let days = unix_s / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day, unix_s % 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_known_moments() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399_000), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_481_189_400_000), "2016-12-08T09:30:00Z");
        assert_eq!(compact(1_481_189_400_000), "20161208-093000");
    }
}
