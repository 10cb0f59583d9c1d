//! What goes to stdout: tables for people, JSON for programs.

use std::io::Write;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::exit::Failure;

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Columns, for people.
    #[default]
    Table,
    /// JSON, for programs; its shape is that of the HTTP API.
    Json,
}

/// Rows under a header, in plain columns that `cut` and `awk` can take apart.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Prints JSON, with line breaks.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::error)?)
}

/// Prints a line. A reader that went away (`| head`) is an error of nobody's.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Says something to a person, beside what programs read.
#[allow(clippy::print_stderr)]
pub(crate) fn remark(text: &str) {
    eprintln!("{text}");
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Failure::error),
    }
}
