//! RFC 3339 as exact nanoseconds.
//!
//! Claims are ordered by when they hold, so two instants must compare the same
//! everywhere and no digit a caller wrote may be dropped. Milliseconds would
//! drop some, and 64 bits of nanoseconds end in 2262; an `i128` of nanoseconds
//! holds all that RFC 3339 can write with nine fraction digits, years 0 to
//! 9999. A tenth digit is refused rather than dropped. A leap second (`:60`)
//! is the same instant as the second before it, as on every Unix clock.
//!
//! The calendar is jiff's. Its parser takes more than RFC 3339 (no seconds,
//! zone names in brackets, a comma), so the shape is checked here first.

use std::fmt;

use jiff::Timestamp;

/// Nanoseconds since 1970-01-01T00:00:00Z, negative before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstantNs(pub i128);

/// Nanoseconds of a millisecond.
const MS_NS: i128 = 1_000_000;

impl InstantNs {
    /// From milliseconds since 1970, what a leader stamps a write with.
    pub fn from_ms(ms: i64) -> Self {
        Self(i128::from(ms) * MS_NS)
    }

    /// Reads an RFC 3339 `date-time`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if !is_rfc3339(text.as_bytes()) {
            return None;
        }
        text.parse::<Timestamp>().ok().map(|t| Self(t.as_nanosecond()))
    }
}

/// RFC 3339 in UTC with as many fraction digits as it takes; bare nanoseconds outside years
/// -9999 to 9999.
impl fmt::Display for InstantNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_nanosecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "{} ns", self.0),
        }
    }
}

/// The grammar of RFC 3339 section 5.6 with at most nine fraction digits. Which days a month has
/// is jiff's to know.
fn is_rfc3339(text: &[u8]) -> bool {
    let Some((date_time, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    matches(date_time, b"dddd-dd-ddTdd:dd:dd") && is_offset(skip_fraction(rest))
}

/// What stands behind `.` and one to nine digits; `rest` itself where there is no fraction.
fn skip_fraction(rest: &[u8]) -> &[u8] {
    let Some(digits) = rest.strip_prefix(b".") else { return rest };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if (1..=9).contains(&count) { &digits[count..] } else { b"" }
}

fn is_offset(text: &[u8]) -> bool {
    match text {
        b"Z" | b"z" => true,
        [b'+' | b'-', hour_minute @ ..] => {
            let (hour, minute) = (hour_minute.get(..2), hour_minute.get(3..));
            matches(hour_minute, b"dd:dd")
                && hour <= Some(b"23".as_slice())
                && minute <= Some(b"59".as_slice())
        }
        _ => false,
    }
}

/// Whether each byte fits its place: `d` is a digit, any other stands for itself in either case.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    let fits = |(b, p): (&u8, &u8)| {
        if *p == b'd' { b.is_ascii_digit() } else { b.eq_ignore_ascii_case(p) }
    };
    text.len() == pattern.len() && text.iter().zip(pattern).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_the_same_however_its_offset_is_written() {
        let noon = InstantNs(1_767_268_800_000_000_000);
        for same in [
            "2026-01-01T12:00:00Z",
            "2026-01-01t12:00:00z",
            "2026-01-01T12:00:00.000000000Z",
            "2026-01-01T14:00:00+02:00",
            "2026-01-01T00:30:00-11:30",
            "2026-01-01T12:00:00-00:00",
            "2026-01-02T11:59:00+23:59",
        ] {
            assert_eq!(InstantNs::parse(same), Some(noon), "{same}");
        }
        assert_eq!(noon.to_string(), "2026-01-01T12:00:00Z");
        assert_eq!(InstantNs::from_ms(1_767_268_800_000), noon);
    }

    #[test]
    fn the_last_nanosecond_counts_and_the_ends_of_the_calendar_are_in() {
        let one = InstantNs::parse("2026-01-01T12:00:00.000000001Z").unwrap();
        assert_eq!(one.0 % 1_000_000_000, 1);
        assert!(InstantNs::parse("0000-01-01T00:00:00Z").unwrap() < InstantNs(0));
        assert!(InstantNs::parse("9999-12-30T00:00:00Z").unwrap() > one);
        let leap = InstantNs::parse("2016-12-31T23:59:60Z");
        assert_eq!(leap, InstantNs::parse("2016-12-31T23:59:59Z"));
    }

    #[test]
    fn whatever_is_not_rfc_3339_is_refused() {
        for bad in [
            "",
            "now",
            "2026-01-01",
            "2026-01-01T12:00Z",
            "2026-01-01T12:00:00",
            "2026-01-01 12:00:00Z",
            "2026-01-01T12:00:00,5Z",
            "2026-01-01T12:00:00.Z",
            "2026-01-01T12:00:00.0000000001Z",
            "2026-01-01T12:00:00Z[UTC]",
            "2026-01-01T12:00:00+02",
            "2026-01-01T12:00:00+0200",
            "2026-01-01T12:00:00+24:00",
            "2026-01-01T12:00:00+02:60",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T12:00:61Z",
            "20260101T120000Z",
            "+002026-01-01T12:00:00Z",
            "2026-01-01T12:00:00Z ",
            "２０２６-01-01T12:00:00Z",
        ] {
            assert_eq!(InstantNs::parse(bad), None, "{bad}");
        }
    }
}
