//! What becomes of a file whose records are all final: it is removed, or moved without taking the place
//! of another.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs;

/// Names that are tried for a file before its folder is taken for full of them.
const MOST_NAMES: u32 = 100_000;

/// Removes it. One that is gone already is no mistake.
pub(super) async fn delete(file: &Path) -> io::Result<()> {
    match fs::remove_file(file).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves it into a folder, which is made if it is missing. Where its name is taken there it gets a
/// number.
pub(super) async fn move_into(file: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).await?;
    let name = file.file_name().unwrap_or_default();
    rename(file, &folder.join(name), &mut 1).await
}

/// Gives a file that path, or one with a number in its name if something is there; `number` is the first
/// that is tried, and then the one behind that which it got. Nothing that exists is touched.
pub(super) async fn rename(file: &Path, wanted: &Path, number: &mut u32) -> io::Result<()> {
    let path = create_new(wanted, number).await?;
    let renamed = match fs::rename(file, &path).await {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(file, &path).await,
        other => other,
    };
    if let Err(error) = renamed {
        // Only what was made here.
        fs::remove_file(&path).await.ok();
        return Err(error);
    }
    Ok(())
}

async fn copy(file: &Path, path: &Path) -> io::Result<()> {
    fs::copy(file, path).await?;
    fs::File::open(path).await?.sync_all().await?;
    fs::remove_file(file).await
}

/// Makes an empty file that was not there before: of that name, or with a number in it.
pub(super) async fn create_new(wanted: &Path, number: &mut u32) -> io::Result<PathBuf> {
    let mut path = wanted.to_owned();
    for _ in 0..MOST_NAMES {
        match fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&path)
            .await
        {
            Ok(_file) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path = with_mark(wanted, &number.to_string());
                *number = number.wrapping_add(1);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// `a/b.csv` with the mark `7` is `a/b-7.csv`.
pub(super) fn with_mark(path: &Path, mark: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push("-");
    name.push(mark);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_moved_takes_no_others_place() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.csv"), folder.path().join("new/deep"));
        for text in ["one", "two", "three"] {
            std::fs::write(&from, text).unwrap();
            move_into(&from, &to).await.unwrap();
            assert!(!from.exists());
        }
        for (name, text) in [("a.csv", "one"), ("a-1.csv", "two"), ("a-2.csv", "three")] {
            assert_eq!(std::fs::read_to_string(to.join(name)).unwrap(), text);
        }
        assert!(move_into(&from, &to).await.is_err(), "it is not there");
        assert_eq!(
            std::fs::read_dir(&to).unwrap().count(),
            3,
            "nothing is left of that"
        );
        delete(&from).await.unwrap();
    }

    #[test]
    fn a_mark_stands_before_the_extension() {
        assert_eq!(
            with_mark(Path::new("a/b.tar.gz"), "7"),
            Path::new("a/b.tar-7.gz")
        );
        assert_eq!(with_mark(Path::new("a.b/c"), "7"), Path::new("a.b/c-7"));
    }
}
