//! Keys and secrets of the data folder: made once, readable by their owner only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::exit::Failure;
use crate::serve::new_root_key;

/// Bytes of chance in a cluster secret.
const SECRET_BYTES: usize = 32;

/// Where everything of a `dev` cluster lies.
#[derive(Debug)]
pub(crate) struct DevFiles {
    /// The folder itself, absolute.
    pub(crate) folder: PathBuf,
    /// The root key's file.
    pub(crate) root_key: PathBuf,
    /// The cluster secret's file.
    pub(crate) cluster_secret: PathBuf,
    /// The project key's file; made later.
    pub(crate) project_key: PathBuf,
}

impl DevFiles {
    /// Opens the folder and makes what is missing.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        let make = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            folder.canonicalize()
        };
        let folder =
            make().map_err(|error| Failure::error(format!("{}: {error}", folder.display())))?;
        let file = |name: &str| folder.join(name);
        let files = Self {
            root_key: file("root.key"),
            cluster_secret: file("cluster.secret"),
            project_key: file("project.key"),
            folder: folder.clone(),
        };
        if !files.root_key.exists() {
            write_secret(&files.root_key, &new_root_key())?;
        }
        if !files.cluster_secret.exists() {
            let secret = Zeroizing::new(hex::encode(rand::random::<[u8; SECRET_BYTES]>()));
            write_secret(&files.cluster_secret, &secret)?;
        }
        Ok(files)
    }
}

/// Writes a secret to a file that only its owner reads; whole or not at all.
pub(crate) fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    let draft = path.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(secret.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| Failure::error(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_made_once_and_are_nobody_else_s() {
        let folder = tempfile::tempdir().unwrap();
        let first = DevFiles::open(&folder.path().join("dev")).unwrap();
        let key = fs::read_to_string(&first.root_key).unwrap();
        let secret = fs::read_to_string(&first.cluster_secret).unwrap();
        assert!(key.starts_with("steme_live_") && key.trim().len() == 11 + 48, "{key}");
        assert_eq!(secret.trim().len(), 2 * SECRET_BYTES);
        for path in [&first.root_key, &first.cluster_secret] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let again = DevFiles::open(&folder.path().join("dev")).unwrap();
        assert_eq!(fs::read_to_string(again.root_key).unwrap(), key);
        assert!(!again.project_key.exists());
    }
}
