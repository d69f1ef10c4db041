//! A disk of its own for a node of the test's own services: small, so that a test can fill it.
//!
//! Invariant: it is there before the service makes its data on it, and is taken away with all of that service's data at the end, also of a test that
//! failed; what an aborted run has left is taken away first.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::services::{Services, folder};
use super::skip;

/// The disk that is mounted, as long as this lives.
pub struct Disk {
    service: &'static str,
    data: PathBuf,
}

impl Disk {
    /// Mounts a disk of so many MiB for the data of `instance`, and forgets what `service`, of which that is a node, had before. None, after saying
    /// why, where this process may not mount; a failure where `CI=true`.
    pub fn mount(test: &str, service: &'static str, instance: &str, mebibytes: u32) -> Option<Disk> {
        let data = folder().join("run").join(instance).join("data");
        let disk = Disk { service, data };
        disk.clear();
        std::fs::create_dir_all(&disk.data).unwrap();
        let options = format!("size={mebibytes}m,mode=0755");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&disk.data)
            .output();
        let refused = match output {
            Ok(output) if output.status.success() => return Some(disk),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skip(
            test,
            &format!("a disk of its own cannot be mounted, which takes root: {refused}"),
        );
        None
    }

    /// Takes all that is left of it; what did so, until [`Disk::free`].
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    /// Gives back what was taken.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.data.join("ballast")
    }

    fn clear(&self) {
        Services::idle().call(&["down", self.service], &[]);
        if mounted(&self.data) {
            let done = Command::new("umount").arg(&self.data).status().unwrap();
            assert!(done.success(), "{} cannot be unmounted", self.data.display());
        }
        Services::idle().call(&["wipe", self.service], &[]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.clear();
    }
}

fn mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}
