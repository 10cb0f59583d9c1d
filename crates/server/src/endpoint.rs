//! Which cluster a command talks to, and as whom.
//!
//! The address: `--url`, else `STEMEDB_URL` (several by comma), else a file of
//! the working directory, else the gateway of this machine. The key: the file
//! that `--key-file` names, else `STEMEDB_ADMIN_KEY` (for `keys` and `cluster`)
//! or `STEMEDB_API_KEY`, else the variable that the file names. A key is never
//! an argument, since every user of a machine can read those, and never stands
//! in the file, since that is committed.
//!
//! Files: `.stemedb.toml` (`url`, `api_key_env`, `project`), else the table
//! `[hosted]` of `.aphoria/config.toml` (`url`, `api_key_env`), which some
//! projects' pipelines have already.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use stemedb_client::{ApiKey, Client};

use crate::exit::{Failure, USAGE};
use crate::output::Output;

/// Where a command goes that was told nothing.
const URL_DEFAULT: &str = "http://127.0.0.1:18181";

/// What every command that talks to a cluster takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientArgs {
    /// A gateway of the cluster, or several by comma [env: STEMEDB_URL]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A file that holds the API key [else env: STEMEDB_API_KEY; for keys and cluster, STEMEDB_ADMIN_KEY]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The project, for keys of the cluster (root, admin, auditor) [env: STEMEDB_PROJECT]
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// How long one try may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Tables for people, JSON for programs
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
}

/// Which of two keys a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The data of a project.
    Project,
    /// The cluster.
    Admin,
}

/// What a file of the working directory says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hints {
    url: Option<String>,
    api_key_env: Option<String>,
    project: Option<String>,
}

/// The other tool's file; everything else in it is its own.
#[derive(Deserialize)]
struct AphoriaFile {
    hosted: Option<Hosted>,
}

#[derive(Deserialize)]
struct Hosted {
    url: Option<String>,
    api_key_env: Option<String>,
}

/// Everything known, before a client is made of it.
#[derive(Debug)]
struct Target {
    urls: Vec<String>,
    key: Option<ApiKey>,
    project: Option<String>,
}

impl ClientArgs {
    /// The client that the arguments, the environment and the files of this folder describe.
    pub(crate) fn client(&self, who: Who) -> Result<Client, Failure> {
        let hints = read_hints(Path::new("."))?;
        let target = self.target(who, hints, |name| std::env::var(name).ok())?;
        let mut urls = target.urls.into_iter();
        let first = urls.next().unwrap_or_else(|| URL_DEFAULT.to_owned());
        let mut builder = Client::builder(first).timeout(Duration::from_secs(self.timeout));
        builder = urls.fold(builder, |builder, url| builder.also(url));
        if let Some(key) = target.key {
            builder = builder.key(key);
        }
        if let Some(project) = target.project {
            let name = project.parse();
            builder = builder.project(name.map_err(|e| Failure::new(USAGE, format!("{e}")))?);
        }
        Ok(builder.build()?)
    }

    fn target(
        &self,
        who: Who,
        hints: Hints,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Target, Failure> {
        let env = |name: &str| env(name).filter(|text| !text.is_empty());
        let list = self.url.clone().or_else(|| env("STEMEDB_URL")).or(hints.url);
        let list = list.unwrap_or_else(|| URL_DEFAULT.to_owned());
        let urls = list.split(',').map(str::trim).filter(|url| !url.is_empty());
        let key = match &self.key_file {
            Some(path) => Some(read_key(path)?),
            None => {
                let admin = env("STEMEDB_ADMIN_KEY").filter(|_| who == Who::Admin);
                let own = admin.or_else(|| env("STEMEDB_API_KEY"));
                let named = || hints.api_key_env.as_deref().and_then(&env);
                own.or_else(named).map(ApiKey::new)
            }
        };
        let project = self.project.clone().or_else(|| env("STEMEDB_PROJECT")).or(hints.project);
        Ok(Target { urls: urls.map(str::to_owned).collect(), key, project })
    }
}

/// Reads a key's file.
pub(crate) fn read_key(path: &Path) -> Result<ApiKey, Failure> {
    let text = std::fs::read_to_string(path);
    text.map(ApiKey::new).map_err(|e| Failure::new(USAGE, format!("{}: {e}", path.display())))
}

fn read_hints(folder: &Path) -> Result<Hints, Failure> {
    let read = |name: &str| match std::fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(USAGE, format!("{name}: {error}"))),
    };
    let refused = |name: &str, error: &toml::de::Error| {
        Failure::new(USAGE, format!("{name}: {}", error.message()))
    };
    let (own, other) = (".stemedb.toml", ".aphoria/config.toml");
    if let Some(text) = read(own)? {
        return toml::from_str(&text).map_err(|error| refused(own, &error));
    }
    let Some(text) = read(other)? else { return Ok(Hints::default()) };
    let file: AphoriaFile = toml::from_str(&text).map_err(|error| refused(other, &error))?;
    let hosted =
        file.hosted.map(|h| Hints { url: h.url, api_key_env: h.api_key_env, project: None });
    Ok(hosted.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ClientArgs {
        let output = Output::Table;
        ClientArgs { url: None, key_file: None, project: None, timeout: 1, output }
    }

    fn hints() -> Hints {
        let text = |text: &str| Some(text.to_owned());
        Hints { url: text("http://file"), api_key_env: text("CI_KEY"), project: text("p") }
    }

    #[test]
    fn an_address_comes_from_the_flag_then_the_environment_then_the_file() {
        let urls = |args: ClientArgs, hints, env: Option<&str>| {
            let lookup = |name: &str| env.filter(|_| name == "STEMEDB_URL").map(str::to_owned);
            args.target(Who::Project, hints, lookup).unwrap().urls
        };
        let flag = ClientArgs { url: Some("http://flag".into()), ..args() };
        assert_eq!(urls(flag, hints(), Some("http://env")), ["http://flag"]);
        assert_eq!(urls(args(), hints(), Some("http://a, http://b")), ["http://a", "http://b"]);
        assert_eq!(urls(args(), hints(), Some("")), ["http://file"]);
        assert_eq!(urls(args(), Hints::default(), None), [URL_DEFAULT]);
    }

    #[test]
    fn only_commands_for_the_cluster_present_the_admin_key() {
        let shape = |who, names: &[&str]| {
            let lookup = |name: &str| names.contains(&name).then(|| "k".to_owned());
            args().target(who, hints(), lookup).unwrap().key.is_some()
        };
        assert!(shape(Who::Admin, &["STEMEDB_ADMIN_KEY"]));
        assert!(!shape(Who::Project, &["STEMEDB_ADMIN_KEY"]));
        assert!(shape(Who::Admin, &["STEMEDB_API_KEY"]));
        assert!(shape(Who::Project, &["CI_KEY"]));
    }

    #[test]
    fn a_folder_s_files_are_read_and_a_misspelled_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(read_hints(folder.path()).unwrap(), Hints::default());
        std::fs::create_dir(folder.path().join(".aphoria")).unwrap();
        write(".aphoria/config.toml", "[scan]\nx = 1\n[hosted]\nurl = 'http://h'\nother = 1\n");
        assert_eq!(read_hints(folder.path()).unwrap().url.as_deref(), Some("http://h"));
        write(".stemedb.toml", "url = 'http://own'");
        assert_eq!(read_hints(folder.path()).unwrap().url.as_deref(), Some("http://own"));
        write(".stemedb.toml", "ulr = 'http://own'");
        assert_eq!(read_hints(folder.path()).unwrap_err().code, 2);
    }
}
