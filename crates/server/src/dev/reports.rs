//! Which files to feed in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use stemedb_claims::InstantNs;

use crate::exit::Failure;
use crate::ingest::{Format, read};

/// The reports of a folder in the order of their names, then the newest test run if it is newer
/// than all of them. A folder that is not there has none.
pub(crate) fn find(reports: &Path, runs: &Path) -> Result<Vec<(PathBuf, Format)>, Failure> {
    let mut found: Vec<_> = list(reports)?
        .into_iter()
        .filter_map(|path| format_of(&path).map(|format| (path, format)))
        .collect();
    found.sort();
    let known = found.iter().filter(|(_, format)| *format == Format::Junit);
    let known = known.filter_map(|(path, _)| newest_time(path)).max();
    if let Some(run) = newest_run(runs)?
        && newest_time(&run) > known
    {
        found.push((run, Format::Junit));
    }
    Ok(found)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let refused = |error: std::io::Error| Failure::error(format!("{}: {error}", folder.display()));
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path()).map_err(refused)).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(refused(error)),
    }
}

/// What a file is by its name; `None` for everything else, such as a README.
fn format_of(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?;
    let ends = |end: &str| name.ends_with(end);
    match name {
        _ if ends(".sarif") || ends(".sarif.json") => Some(Format::Sarif),
        _ if ends(".cdx.json") || name == "bom.json" => Some(Format::Cyclonedx),
        _ if ends(".xml") => Some(Format::Junit),
        _ if ends(".jsonl") && name.starts_with("clippy") => Some(Format::Clippy),
        _ if ends(".json") && name.starts_with("packages") => Some(Format::Packages),
        _ => None,
    }
}

/// The newest `<profile>/junit.xml` by the clock of the disk.
fn newest_run(runs: &Path) -> Result<Option<PathBuf>, Failure> {
    let written =
        |path: &PathBuf| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    let runs = list(runs)?.into_iter().map(|profile| profile.join("junit.xml"));
    Ok(runs.filter(|path| written(path).is_some()).max_by_key(written))
}

/// The latest time in a JUnit report: a checkout gives files new times, but not their content.
fn newest_time(path: &Path) -> Option<InstantNs> {
    let report = read(Format::Junit, &fs::read(path).ok()?).ok()?;
    let times = report.facts.iter().filter_map(|fact| fact.valid_from.as_deref());
    times.filter_map(InstantNs::parse).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn junit(day: u8) -> String {
        format!(
            "<testsuite timestamp='2026-03-{day:02}T00:00:00Z'><testcase name='t'/></testsuite>"
        )
    }

    #[test]
    fn reports_are_known_by_name_and_a_run_is_taken_only_if_it_is_newer() {
        let folder = tempfile::tempdir().unwrap();
        let (reports, runs) = (folder.path().join("reports"), folder.path().join("runs"));
        assert!(find(&reports, &runs).unwrap().is_empty());
        fs::create_dir_all(&reports).unwrap();
        fs::create_dir_all(runs.join("ci")).unwrap();
        let put = |path: &Path, text: &str| fs::write(path, text).unwrap();
        for name in ["README.md", "packages.json", "clippy.jsonl", "a.sarif", "b.cdx.json"] {
            put(&reports.join(name), "");
        }
        put(&reports.join("junit.xml"), &junit(10));
        let names = || {
            let found = find(&reports, &runs).unwrap().into_iter();
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            found.map(|(path, format)| format!("{} {format:?}", name(path))).collect::<Vec<_>>()
        };
        let committed = [
            "a.sarif Sarif",
            "b.cdx.json Cyclonedx",
            "clippy.jsonl Clippy",
            "junit.xml Junit",
            "packages.json Packages",
        ];
        assert_eq!(names(), committed);
        put(&runs.join("ci/junit.xml"), &junit(9));
        assert_eq!(names(), committed);
        put(&runs.join("ci/junit.xml"), &junit(11));
        assert_eq!(names(), [&committed[..], &["junit.xml Junit"]].concat());
    }
}
