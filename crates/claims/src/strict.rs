//! JSON that means one thing to every reader.
//!
//! Plain JSON leaves two doors open that an id must not have: an object may
//! give a key twice (readers keep the first, the last, or both), and a number
//! may be longer than a double (readers round it, each in silence). RFC 8785
//! asks for I-JSON (RFC 7493), where neither is allowed; [`parse_json`] refuses
//! both.
//!
//! The tree keeps no trace of how a number was written, so numbers are checked
//! on the text itself, in a second pass that skips over strings. An integer
//! must survive the way through a double digit for digit; a fraction may lose
//! digits behind the 17th, as every JSON reader's does, but must not vanish.
//! RFC 7493 also warns of Unicode noncharacters; these are taken, since their
//! canonical form is never in doubt.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use crate::canonical;
use crate::error::{Error, quoted};

/// Digits that any integer of so many digits keeps in a double: 10^15 < 2^53.
const INTEGER_DIGITS_SAFE: usize = 15;

/// Reads one JSON value and nothing behind it.
///
/// Errors are [`Error::Json`], [`Error::DuplicateKey`] and [`Error::Number`]; nesting deeper than
/// 128 levels is one of the first. The value given back has each number as the double (or the
/// small integer) that it stands for.
pub fn parse_json(bytes: &[u8]) -> Result<Value, Error> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut from).map_err(refusal)?;
    from.end().map_err(refusal)?;
    check_numbers(bytes)?;
    Ok(value)
}

/// The only error of our own inside the parser is the duplicate key: everything else is syntax.
fn refusal(error: serde_json::Error) -> Error {
    let detail = error.to_string();
    match error.classify() {
        Category::Data => Error::DuplicateKey { detail },
        _ => Error::Json { detail },
    }
}

/// Builds a value as serde_json would, but stops at a key that is there already.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                let sentence = format!("the key {:?} is given twice in one object", quoted(&key));
                return Err(de::Error::custom(sentence));
            }
            let value = entries.next_value_seed(Strict)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Checks every number of a text that is known to be JSON.
fn check_numbers(json: &[u8]) -> Result<(), Error> {
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let rest = &json[at..];
        at += match byte {
            b'"' => string_bytes(rest),
            b'-' | b'0'..=b'9' => {
                let length = number_bytes(rest);
                check_literal(&rest[..length])?;
                length
            }
            _ => 1,
        };
    }
    Ok(())
}

/// Length of the string at the front of valid JSON, both quotes included.
fn string_bytes(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

/// Length of the number at the front of valid JSON.
fn number_bytes(json: &[u8]) -> usize {
    let inside = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    json.iter().position(|b| !inside(b)).unwrap_or(json.len())
}

fn check_literal(literal: &[u8]) -> Result<(), Error> {
    let whole = literal.iter().all(|b| matches!(b, b'-' | b'0'..=b'9'));
    if whole && literal.len() <= INTEGER_DIGITS_SAFE {
        return Ok(());
    }
    let text = String::from_utf8_lossy(literal);
    let kept = match text.parse::<f64>() {
        Err(_) => false,
        Ok(value) if whole => canonical::number(value).is_some_and(|kept| kept == text),
        Ok(value) => value != 0.0 || is_zero(literal),
    };
    if kept { Ok(()) } else { Err(Error::Number { literal: quoted(&text) }) }
}

/// Whether a literal has no digit but zero before its exponent.
fn is_zero(literal: &[u8]) -> bool {
    let mantissa = literal.split(|b| matches!(b, b'e' | b'E')).next().unwrap_or(literal);
    mantissa.iter().all(|b| matches!(b, b'-' | b'.' | b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(json: &str) -> String {
        parse_json(json.as_bytes()).expect_err(json).to_string()
    }

    #[test]
    fn a_key_given_twice_is_refused_at_any_depth_and_named_with_its_place() {
        assert_eq!(
            refused(r#"{"a":1,"a":1}"#),
            "the key \"a\" is given twice in one object at line 1 column 10"
        );
        assert!(refused(r#"[{"b":{"x":1,"y":2,"x":1}}]"#).contains("\"x\" is given twice"));
        assert!(refused(r#"{"a":1,"\u0061":2}"#).contains("\"a\" is given twice"));
        assert!(parse_json(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn an_integer_is_taken_only_if_a_double_keeps_every_digit() {
        let kept = [
            "0",
            "-0",
            "9007199254740991",
            "-9007199254740991",
            "9007199254740992",
            "100000000000000000000",
            "295147905179352830000",
        ];
        for good in kept {
            assert!(parse_json(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "9007199254740993",
            "-9007199254740993",
            "18446744073709551615",
            "12345678901234567890123",
        ] {
            assert_eq!(parse_json(bad.as_bytes()), Err(Error::Number { literal: bad.into() }));
        }
    }

    #[test]
    fn a_fraction_may_lose_digits_but_neither_vanish_nor_overflow() {
        for good in ["0.0", "-0e5", "0.1000000000000000055511151231257827", "1e21", "5e-324"] {
            assert!(parse_json(good.as_bytes()).is_ok(), "{good}");
        }
        assert_eq!(parse_json(b"[1e-400]"), Err(Error::Number { literal: "1e-400".into() }));
        assert!(refused("1e400").starts_with("this is not JSON: number out of range"));
    }

    #[test]
    fn digits_inside_strings_are_text() {
        assert!(parse_json(br#"{"9007199254740993\"":"\\\"1e-400"}"#).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused_with_line_and_column() {
        for bad in
            ["", "{", "nul", "[1,]", "{\"a\":1} x", "'a'", "01", "\"\\ud800\"", "NaN", "\u{feff}1"]
        {
            assert!(refused(bad).starts_with("this is not JSON: "), "{bad}");
        }
        assert!(refused(&"[".repeat(200)).contains("recursion limit"));
        assert!(parse_json(b"\"\xff\"").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_agree_with_serde_json_where_taken(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                "[\\[\\]{}\",:0-9eE.\\\\ a-]{0,40}".prop_map(String::into_bytes),
            ],
        ) {
            if let Ok(value) = parse_json(&bytes) {
                prop_assert_eq!(value, serde_json::from_slice::<Value>(&bytes).unwrap());
            }
        }
    }
}
