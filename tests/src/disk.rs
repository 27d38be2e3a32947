//! A disk that is soon full: a small file system in memory, mounted over a folder. Only root can do
//! that; it is unmounted with its owner.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::is_root;

/// A mounted one.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB over this folder, which is made if it is not there.
    ///
    /// # Errors
    /// Why that cannot be, as a sentence.
    pub fn mount(folder: &Path, mebibytes: u64) -> Result<Self, String> {
        if !is_root() {
            return Err("a small disk can only be mounted by root".to_owned());
        }
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let said = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder)
            .output()
            .map_err(|error| format!("mount cannot be started: {error}"))?;
        if said.status.success() {
            Ok(Self {
                folder: folder.to_owned(),
            })
        } else {
            Err(String::from_utf8_lossy(&said.stderr).trim().to_owned())
        }
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Somebody else writes until nothing fits any more; answers how many bytes that were.
    pub fn fill(&self) -> u64 {
        let Ok(mut file) = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
        else {
            return 0;
        };
        for size in [64 * 1024, 4096, 1] {
            let block = vec![b'x'; size];
            while file.write_all(&block).is_ok() {}
        }
        file.metadata().map_or(0, |file| file.len())
    }

    /// What the others wrote is gone.
    pub fn free(&self) {
        // It is not there if nothing was written.
        drop(std::fs::remove_file(self.filler()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there loses the path and nothing else.
        let unmounted = Command::new("umount").arg("-l").arg(&self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.folder.display());
        }
    }
}
