//! `stemedb ingest`: files in, statements out.
//!
//! Each file is read and checked whole before its first statement is sent. A
//! broken one is named with its line on stderr, nothing of it is sent, and the
//! others go on; the exit code is 1 then.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use stemedb_api::claims::{AssertStatus, Statement};
use stemedb_client::{Client, batches};
use stemedb_types::BucketName;

use crate::cli::IngestArgs;
use crate::endpoint::Who;
use crate::exit::{ERROR, Failure, USAGE};
use crate::ingest::{Format, Origin, REPORT_BYTES_MAX, read, statements};
use crate::output::{self, Output};

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ingested {
    pub(crate) file: String,
    pub(crate) statements: usize,
    /// How many nobody had made before under this key.
    pub(crate) created: usize,
    /// How many were known already.
    pub(crate) known: usize,
}

pub(crate) async fn run(args: IngestArgs) -> Result<(), Failure> {
    let client = args.target.client.client(Who::Project)?;
    let commit = match args.commit {
        Some(commit) => Some(check_commit(commit)?),
        None => git_commit().await,
    };
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for path in &args.files {
        let file = Report { path, format: args.format, commit: commit.clone() };
        match send_file(&client, &args.target.bucket, &file).await {
            Ok(ingested) => done.push(ingested),
            Err(failure) => {
                eprintln!("stemedb: {}", failure.line);
                failures.push(failure.code);
            }
        }
    }
    match args.target.client.output {
        Output::Json => output::json(&serde_json::json!({ "items": done }))?,
        Output::Table if done.is_empty() => {}
        Output::Table => output::line(&table(&done))?,
    }
    match failures.as_slice() {
        [] => Ok(()),
        // Each was named already. One code if all failed alike, else the plain one.
        [first, rest @ ..] if rest.iter().all(|code| code == first) => {
            Err(Failure::new(*first, ""))
        }
        _ => Err(Failure::new(ERROR, "")),
    }
}

/// What was sent, a row for each file.
pub(crate) fn table(done: &[Ingested]) -> String {
    let rows = done.iter().map(|file| {
        let numbers = [file.statements, file.created, file.known].map(|n| n.to_string());
        let [statements, created, known] = numbers;
        [file.file.clone(), statements, created, known]
    });
    output::table(["FILE", "STATEMENTS", "CREATED", "KNOWN"], rows)
}

/// A file to read.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) path: &'a Path,
    pub(crate) format: Format,
    pub(crate) commit: Option<String>,
}

/// Reads a file whole, then sends it.
pub(crate) async fn send_file(
    client: &Client,
    bucket: &BucketName,
    file: &Report<'_>,
) -> Result<Ingested, Failure> {
    let statements = read_report(file)?;
    let bar = progress(statements.len() as u64, name_of(file.path));
    let mut ingested =
        Ingested { file: name_of(file.path), statements: statements.len(), created: 0, known: 0 };
    for batch in batches(&statements)? {
        let answer = client.assert_batch(bucket, batch).await.map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(failure.code, format!("{}: {}", file.path.display(), failure.line))
        })?;
        let created = answer.items.iter().filter(|i| i.status == AssertStatus::Created).count();
        ingested.created += created;
        ingested.known += answer.items.len() - created;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(ingested)
}

/// The statements of a file, or a line that names file and place.
pub(crate) fn read_report(file: &Report<'_>) -> Result<Vec<Statement>, Failure> {
    let path = file.path.display();
    let bytes = read_bytes(file.path).map_err(|why| Failure::error(format!("{path}: {why}")))?;
    let origin = Origin { file: name_of(file.path), commit: file.commit.clone() };
    let statements =
        read(file.format, &bytes).and_then(|report| statements(&report, &origin, &bytes));
    statements.map_err(|broken| {
        Failure::error(format!("{path}:{}: {}; nothing of it was sent", broken.line, broken.reason))
    })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > REPORT_BYTES_MAX {
        return Err(format!("the report is longer than {REPORT_BYTES_MAX} bytes"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

/// A bar on stderr; indicatif shows none where that is no terminal.
pub(crate) fn progress(length: u64, message: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}");
    let bar = ProgressBar::new(length).with_message(message);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// How a project's people would name a file: relative to this folder, or else by its last part, so
/// that no machine's paths get into statements.
fn name_of(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let inside = path.strip_prefix(&here).ok().map(Path::to_path_buf);
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    let last = || path.file_name().map(PathBuf::from).unwrap_or_default();
    let name = match inside {
        Some(inside) => inside,
        None if path.is_absolute() || climbs => last(),
        None => path.strip_prefix(".").unwrap_or(path).to_path_buf(),
    };
    name.display().to_string()
}

fn check_commit(commit: String) -> Result<String, Failure> {
    let sane =
        (1..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_alphanumeric());
    if sane {
        return Ok(commit);
    }
    Err(Failure::new(USAGE, "--commit is 1 to 64 letters and digits"))
}

/// The commit of this folder, if git is there and knows one.
pub(crate) async fn git_commit() -> Option<String> {
    let asked = tokio::process::Command::new("git").args(["rev-parse", "HEAD"]).output().await;
    let answer = asked.ok().filter(|answer| answer.status.success())?;
    let text = String::from_utf8(answer.stdout).ok()?;
    check_commit(text.trim().to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_report_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("junit.xml");
        std::fs::write(&path, "<testsuite>\n<testcase name=\"a\">").unwrap();
        let report = Report { path: &path, format: Format::Junit, commit: None };
        let failure = read_report(&report).unwrap_err();
        let why = "the report ends inside the <testcase> that line 2 opens; nothing of it was sent";
        assert_eq!(failure, Failure::new(1, format!("{}:2: {why}", path.display())));
        std::fs::remove_file(&path).unwrap();
        assert!(read_report(&report).unwrap_err().line.contains("No such file"));
    }

    #[test]
    fn no_path_of_this_machine_gets_into_a_statement() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(name_of(Path::new("./a/b.xml")), "a/b.xml");
        assert_eq!(name_of(Path::new("a/b.xml")), "a/b.xml");
        assert_eq!(name_of(&here.join("a/b.xml")), "a/b.xml");
        assert_eq!(name_of(Path::new("/elsewhere/b.xml")), "b.xml");
        assert_eq!(name_of(Path::new("../up/b.xml")), "b.xml");
    }

    #[test]
    fn a_commit_is_one_word() {
        assert!(check_commit("c0ffee".into()).is_ok());
        for bad in ["", "a b", "a#b", &"a".repeat(65)] {
            assert_eq!(check_commit(bad.into()).unwrap_err().code, USAGE, "{bad}");
        }
    }
}
