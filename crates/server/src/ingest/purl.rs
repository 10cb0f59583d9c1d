//! Package URLs (the `purl` specification), as far as cargo and nameless components need them.

use std::fmt::Write;

/// `pkg:<kind>/<name>@<version>`, percent-encoded; without the version where there is none.
pub(super) fn purl(kind: &str, name: &str, version: Option<&str>) -> String {
    let version = version.map(|version| format!("@{}", encode(version)));
    format!("pkg:{kind}/{}{}", encode(name), version.unwrap_or_default())
}

/// Everything but letters, digits and `.-_~` as `%XX`.
fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b".-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
