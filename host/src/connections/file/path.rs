//! Which files may be touched: regular ones below the folder that the operator granted.

use std::path::{Component, Path, PathBuf};

use crate::error::ConnectionError;

/// The file of that relative path below `root`, which must be canonical. The file, and folders on
/// the way to it, may be missing.
///
/// # Errors
/// `denied`-like refusals are `permanent`: the path leaves the root, by `..`, by being absolute, or
/// through a symbolic link; or it is no regular file.
pub(super) fn below(root: &Path, relative: &str) -> Result<PathBuf, ConnectionError> {
    let target = resolve(root, relative)?;
    match target.metadata() {
        // A FIFO would block, a device never end.
        Ok(metadata) if !metadata.is_file() => Err(refused("is not a regular file")),
        _ => Ok(target),
    }
}

/// As [`below`], for a path that may be a folder too.
///
/// # Errors
/// As [`below`].
pub(super) fn file_or_folder(root: &Path, relative: &str) -> Result<PathBuf, ConnectionError> {
    let target = resolve(root, relative)?;
    match target.metadata() {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            Err(refused("is neither a regular file nor a folder"))
        }
        _ => Ok(target),
    }
}

/// As [`below`], for a folder.
///
/// # Errors
/// As [`below`].
pub(super) fn folder(root: &Path, relative: &str) -> Result<PathBuf, ConnectionError> {
    let target = resolve(root, relative)?;
    match target.metadata() {
        Ok(metadata) if !metadata.is_dir() => Err(refused("is not a folder")),
        _ => Ok(target),
    }
}

fn resolve(root: &Path, relative: &str) -> Result<PathBuf, ConnectionError> {
    let path = Path::new(relative);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if relative.is_empty() || relative.contains('\0') || !plain {
        return Err(refused("must be a relative path without \"..\""));
    }
    let whole = root.join(path);
    // The deepest part that exists decides where the rest would come to lie.
    let mut existing = whole.as_path();
    while existing.symlink_metadata().is_err() {
        match existing.parent() {
            Some(parent) => existing = parent,
            None => return Err(refused("has no folder")),
        }
    }
    // A link to nowhere cannot be resolved, and must not be created through.
    let real = existing
        .canonicalize()
        .map_err(|error| refused("cannot be resolved").caused_by(error))?;
    if !real.starts_with(root) {
        return Err(refused("leads out of the folder that is granted"));
    }
    let rest = whole.strip_prefix(existing).unwrap_or(Path::new(""));
    Ok(if rest.as_os_str().is_empty() {
        real
    } else {
        real.join(rest)
    })
}

fn refused(why: &str) -> ConnectionError {
    ConnectionError::permanent("path", format!("the file's path {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_below_the_root_are_reached() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/a"), "a").unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("out")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("none"), root.join("dangling")).unwrap();
        std::os::unix::fs::symlink(root.join("sub"), root.join("in")).unwrap();
        assert_eq!(below(&root, "sub/a").unwrap(), root.join("sub/a"));
        assert_eq!(below(&root, "in/a").unwrap(), root.join("sub/a"));
        assert_eq!(below(&root, "new/deep/b").unwrap(), root.join("new/deep/b"));
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "sub/../../x",
            "out/secret",
            "out/new",
            "link",
            "dangling",
            "sub",
            "a\0b",
            "sub/a/b/../../..",
        ] {
            let error = below(&root, bad).unwrap_err();
            assert_eq!(error.kind, crate::error::ErrorKind::Permanent, "{bad}");
            assert!(!error.message.contains(root.to_str().unwrap()));
        }
    }
}
