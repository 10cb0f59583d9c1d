//! What a node is told: flags over environment over file over defaults.
//!
//! One table ([`table::SETTINGS`]) names every setting once: its flag, its
//! kind, its default and its help. The flags of `serve`, the names in the
//! environment (`STEMEDB_` and the flag), the keys of the TOML file (the flag
//! with underscores) and the rows of `config show` all come from it, so they
//! can't disagree.
//!
//! ```text
//! flags ┐
//! env   ├─► effective ─► Effective (each text with its source) ─► check ─► Settings
//! file  ┘      │                  └─► config show
//!              └─ an unknown key of the file, a value that is none
//! ```
//!
//! Pure but for `files`: the environment comes in as a list, files through a
//! function, so every rule is tested as a table.
//!
//! Left out: settings of what is not built yet (metering, test keys, TLS,
//! read modes and others of the contract). They are unknown, so `config check`
//! names them and a file that has them is refused; nobody believes in a switch
//! that does nothing.

mod check;
mod effective;
mod files;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use check::{Settings, check, host_port};
pub(crate) use effective::{Effective, Inputs, Refused, effective, unknown_names};
pub(crate) use files::{SystemFiles, read_file};
pub(crate) use table::SettingFlags;
