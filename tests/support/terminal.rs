//! A pseudo-terminal, 80 columns wide and 24 rows high, as the only terminal that a command knows.

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Gives the command a terminal. Returns the emulator's end, and the command's end so that it can be inspected.
pub fn on_terminal(command: &mut Command) -> (File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let mut size = libc::winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (no_name, as_it_is) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the pointers are of living variables, or null where openpty takes null.
    let made = unsafe { libc::openpty(&raw mut master, &raw mut slave, no_name, as_it_is, &raw mut size) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: openpty has just made both, and nobody else owns them.
    let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let end = || Stdio::from(slave.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end());
    // SAFETY: between fork and exec, both calls are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    (master, slave)
}
