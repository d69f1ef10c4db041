//! A disk of its own for a node of the test's own services: small, so that a test can fill it.
//!
//! Invariant: it is there before the service makes its data on it, and is taken away with all of that service's data at the end. What an aborted run has
//! left, or a test that failed, is taken away before the next one that names the service.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::services::{Services, folder, is_instance};
use super::skip;

/// So many of the last lines of each log are shown where a test has failed.
const SHOWN: usize = 60;

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

    /// Takes away what a test that failed has left of these services, for one that wants no disk: it would find them on a small one.
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
            // It would take the logs away that tell why, and a panic in here would end the tests that follow.
            show_logs(self.service);
            // Else the service would not start for the next test that names it.
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

/// Where anything is mounted; nowhere on a system that does not say so, for there nothing is mounted by [`Disk::mount`] either.
fn mounts() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .collect()
}
