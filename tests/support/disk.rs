//! A disk of its own for one node of the test's own services: small, so that a test can fill it.
//!
//! Invariant: the disk is mounted before the service creates its data on it, and is removed with all of that service's data at the end. Whatever an
//! aborted run or a failed test left is removed before the next test that uses the service.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::services::{Services, folder, is_instance};
use super::skip;

/// How many of the last lines of each log are shown if a test has failed.
const SHOWN: usize = 60;

/// The mounted disk; dropping it unmounts it.
pub struct Disk {
    service: &'static str,
    data: PathBuf,
}

impl Disk {
    /// Mounts a disk of this size in MiB for the data of `instance`, a node of `service`, and discards all earlier data of `service`. If this process
    /// may not mount, it prints why and returns None, or fails if `CI=true`.
    pub fn mount(test: &str, service: &'static str, instance: &str, mebibytes: u32) -> Option<Disk> {
        let data = folder().join("run").join(instance).join("data");
        clear(service, &data);
        let disk = Disk { service, data };
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

    /// Takes all remaining space, until [`Disk::free`].
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    /// Frees the space that [`Disk::fill`] took.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.data.join("ballast")
    }

    /// For a test that wants no disk: unmounts small disks that a failed test left for these services, which would otherwise run on them.
    pub fn clear_left(services: &[&str]) {
        let run = folder().join("run");
        for mount in mounts() {
            let Ok(left) = mount.strip_prefix(&run) else { continue };
            let Some(instance) = left.iter().next().and_then(OsStr::to_str) else {
                continue;
            };
            if let Some(service) = services.iter().find(|service| is_instance(service, instance)) {
                clear(service, &mount);
            }
        }
    }
}

fn clear(service: &str, data: &Path) {
    Services::idle().call(&["down", service], &[]);
    if mounts().iter().any(|mount| mount == data) {
        let done = Command::new("umount").arg(data).status().unwrap();
        assert!(done.success(), "{} cannot be unmounted", data.display());
    }
    Services::idle().call(&["wipe", service], &[]);
}

impl Drop for Disk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // `clear` would delete the logs that tell why, and a panic here would abort the following tests.
            show_logs(self.service);
            // Otherwise the service would not start for the next test that uses it.
            let _ = std::fs::remove_file(self.ballast());
        } else {
            clear(self.service, &self.data);
        }
    }
}

fn show_logs(service: &str) {
    for entry in std::fs::read_dir(folder().join("run")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_instance(service, &name) {
            continue;
        }
        let bytes = std::fs::read(entry.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = log.lines().collect();
        println!(
            "--- last lines of {name}\n{}",
            lines[lines.len().saturating_sub(SHOWN)..].join("\n")
        );
    }
}

/// All mount points. Empty on a system without /proc/self/mounts, because [`Disk::mount`] mounts nothing there either.
fn mounts() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .collect()
}
