//! RFC 8785, and the order of a statement's own fields.
//!
//! The JSON Canonicalization Scheme (JCS) writes a value in one way: no
//! whitespace, keys sorted by their UTF-16 code units, numbers as ECMAScript
//! prints a double. Strings, numbers and the free-form object are written by
//! `serde_json_canonicalizer`; a statement's own few fields have a fixed sorted
//! order, so they are written one after another into one buffer instead of
//! being sorted again each time. A test holds the two ways against each other.

use std::ops::Range;

use serde::Serialize;
use serde_json::Value;
use stemedb_types::limits::STATEMENT_BYTES_MAX;

use crate::error::{Error, quoted};

/// Deepest nesting of arrays and objects inside a statement's object, as in the parser.
pub(crate) const DEPTH_MAX: usize = 128;

/// Largest integer below which a double holds every integer.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// The canonical text of a double; `None` if it is not finite.
pub(crate) fn number(value: f64) -> Option<String> {
    serde_json_canonicalizer::to_string(&value).ok()
}

/// Checks that a value has a canonical form of its own and may fit a statement.
///
/// This runs before anything is written: writing costs a copy per level of nesting, so a huge deep
/// value must be refused while it is still only read.
pub(crate) fn check(value: &Value) -> Result<(), Error> {
    let mut left = STATEMENT_BYTES_MAX;
    check_within(value, DEPTH_MAX, &mut left)
}

/// Takes the fewest bytes that `value` can be written in from `left_bytes`.
fn check_within(value: &Value, depth_left: usize, left_bytes: &mut usize) -> Result<(), Error> {
    let depth_below = || depth_left.checked_sub(1).ok_or(Error::Depth { depth_max: DEPTH_MAX });
    match value {
        Value::Null | Value::Bool(_) => take(left_bytes, 4),
        Value::Number(number) => {
            check_number(number)?;
            take(left_bytes, 1)
        }
        Value::String(text) => take(left_bytes, text.len() + 2),
        Value::Array(items) => {
            take(left_bytes, items.len() + 1)?;
            let below = depth_below()?;
            items.iter().try_for_each(|item| check_within(item, below, left_bytes))
        }
        Value::Object(entries) => {
            take(left_bytes, entries.len() + 1)?;
            let below = depth_below()?;
            entries.iter().try_for_each(|(key, entry)| {
                take(left_bytes, key.len() + 3)?;
                check_within(entry, below, left_bytes)
            })
        }
    }
}

fn take(left_bytes: &mut usize, bytes: usize) -> Result<(), Error> {
    *left_bytes = left_bytes.checked_sub(bytes).ok_or(Error::StatementTooLong)?;
    Ok(())
}

/// An integer beyond 2^53 must print again as itself. (One that came through the strict parser
/// does; one in a value built by a program may not.)
fn check_number(given: &serde_json::Number) -> Result<(), Error> {
    let magnitude = given.as_u64().or_else(|| given.as_i64().map(i64::unsigned_abs));
    if magnitude.is_none_or(|m| m <= INTEGER_MAX) {
        return Ok(());
    }
    let literal = given.to_string();
    let kept = given.as_f64().and_then(number).is_some_and(|text| text == literal);
    if kept { Ok(()) } else { Err(Error::Number { literal: quoted(&literal) }) }
}

/// Writes one JSON object whose keys the caller names in sorted order.
pub(crate) struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> ObjectWriter<'a> {
    /// Opens the object at the end of `out`.
    pub(crate) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// Writes `"key":` and gives back the buffer for the value. `key` must need no escaping.
    pub(crate) fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A key with a canonical value. Returns where the value stands in the buffer.
    pub(crate) fn field<T: Serialize + ?Sized>(
        &mut self,
        key: &str,
        value: &T,
    ) -> Result<Range<usize>, Error> {
        let out = self.key(key);
        let start = out.len();
        write(&value, out)?;
        Ok(start..out.len())
    }

    /// A key with a canonical value, if there is one.
    pub(crate) fn optional<T: Serialize + ?Sized>(
        &mut self,
        key: &str,
        value: Option<&T>,
    ) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.field(key, value).map(drop))
    }

    /// Closes the object.
    pub(crate) fn close(self) {
        self.out.push(b'}');
    }
}

/// Appends the canonical form of `value`. It fails only for what [`check`] refuses.
fn write<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    serde_json_canonicalizer::to_writer(value, out)
        .map_err(|error| Error::Json { detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strict::parse_json;
    use proptest::prelude::*;
    use serde_json::json;

    fn canonical(json: &str) -> String {
        let mut out = Vec::new();
        write(&parse_json(json.as_bytes()).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_sample_of_rfc_8785_section_3_2_2_comes_out_as_printed_there() {
        let given = r#"{
            "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
            "literals": [null, true, false]
        }"#;
        let printed = concat!(
            r#"{"literals":[null,true,false],"#,
            r#""numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
            r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#,
        );
        assert_eq!(canonical(given), printed);
    }

    #[test]
    fn keys_sort_by_utf_16_as_in_rfc_8785_section_3_2_3() {
        let given = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return",
            "\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
            "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control",
            "\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let printed = "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\
            \"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\
            \"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}";
        assert_eq!(canonical(given), printed);
    }

    /// RFC 8785, appendix B: the bits of a double and its text.
    const APPENDIX_B: &[(u64, &str)] = &[
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7fefffffffffffff, "1.7976931348623157e+308"),
        (0xffefffffffffffff, "-1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xc340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44b52d02c7e14af5, "9.999999999999997e+22"),
        (0x44b52d02c7e14af6, "1e+23"),
        (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
        (0x444b1ae4d6e2ef4e, "999999999999999700000"),
        (0x444b1ae4d6e2ef4f, "999999999999999900000"),
        (0x444b1ae4d6e2ef50, "1e+21"),
        (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
        (0x3eb0c6f7a0b5ed8d, "0.000001"),
        (0x41b3de4355555553, "333333333.3333332"),
        (0x41b3de4355555554, "333333333.33333325"),
        (0x41b3de4355555555, "333333333.3333333"),
        (0x41b3de4355555556, "333333333.3333334"),
        (0x41b3de4355555557, "333333333.33333343"),
        (0xbecbf647612f3696, "-0.0000033333333333333333"),
        (0x43143ff3c1cb0959, "1424953923781206.2"),
    ];

    #[test]
    fn numbers_print_as_in_rfc_8785_appendix_b_and_read_back_as_themselves() {
        for (bits, text) in APPENDIX_B {
            assert_eq!(number(f64::from_bits(*bits)).as_deref(), Some(*text), "{bits:016x}");
            assert_eq!(canonical(text), *text);
        }
        assert_eq!(number(f64::NAN), None);
        assert_eq!(number(f64::INFINITY), None);
    }

    #[test]
    fn a_value_built_by_a_program_is_checked_like_one_that_was_read() {
        let too_long = json!("x".repeat(STATEMENT_BYTES_MAX));
        assert_eq!(check(&too_long), Err(Error::StatementTooLong));
        let number = json!([u64::MAX]);
        assert_eq!(check(&number), Err(Error::Number { literal: u64::MAX.to_string() }));
        let deep = (0..=DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(check(&deep), Err(Error::Depth { depth_max: DEPTH_MAX }));
        let deepest = (0..DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(check(&deepest), Ok(()));
    }

    proptest! {
        #[test]
        fn every_double_keeps_its_text_on_the_way_out_and_in(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = number(value).unwrap();
            prop_assert_eq!(text.parse::<f64>().unwrap(), value);
            prop_assert_eq!(canonical(&text), text);
        }
    }
}
