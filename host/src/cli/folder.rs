//! A folder for a command: one that was given, or a temporary one that goes with the command.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where `run` keeps its data unless told otherwise.
pub(super) const DATA: &str = "windlass-data";

/// A folder; a temporary one is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    remove: bool,
}

impl Folder {
    /// One that stays.
    pub(super) fn given(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            remove: false,
        }
    }

    /// A new one, for this user alone, below the system's folder for temporary files.
    pub(super) fn temporary(name: &str) -> anyhow::Result<Self> {
        let name = format!(
            "{name}-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let path = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // One level only: a folder that somebody else put there is not ours.
        builder
            .create(&path)
            .with_context(|| format!("the temporary folder {} cannot be made", path.display()))?;
        Ok(Self { path, remove: true })
    }

    /// Where compiled connectors are kept for a command that runs nothing: the given folder, else that
    /// of `run` if there is one here, else a temporary one.
    pub(super) fn for_code(given: Option<&Path>) -> anyhow::Result<Self> {
        match given {
            Some(path) => Ok(Self::given(path)),
            None if Path::new(DATA).is_dir() => Ok(Self::given(Path::new(DATA))),
            None => Self::temporary("windlass"),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.remove {
            // Left behind, it is one folder among the system's temporary files.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_with_its_command_and_a_given_one_stays() {
        let folder = Folder::temporary("windlass-test").unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("x"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
        let kept = tempfile::tempdir().unwrap();
        drop(Folder::for_code(Some(kept.path())).unwrap());
        assert!(kept.path().exists());
    }
}
