//! The program: one command line of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    stemedb_benches::run(std::env::args_os()).unwrap_or_else(|error| {
        eprintln!("stemedb-benches: {error:#}");
        ExitCode::FAILURE
    })
}
