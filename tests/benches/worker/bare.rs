//! What the operating system alone has to do for a task: a directory made, a process started and awaited, the directory
//! removed.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::proc;

/// What the bare loop is called where it stands beside the worker.
pub const NAME: &str = "mkdir, posix_spawn, wait, rmdir";

/// The bare loop over one program.
pub struct Bare {
    root: TempDir,
    program: CString,
}

pub struct Took {
    pub wall: Duration,
    /// Processor time of the loop. That of what it starts is not in it, as it is not in the worker's.
    pub cpu: Duration,
}

impl Bare {
    pub fn new(program: &Path) -> Self {
        let program = CString::new(program.as_os_str().as_bytes()).unwrap();
        Self { root: tempfile::tempdir().unwrap(), program }
    }

    /// Runs `count` tasks, `at_once` at the same time.
    pub fn run(&self, count: usize, at_once: usize) -> io::Result<Took> {
        let (start, cpu_before) = (Instant::now(), proc::cpu_of_this_thread());
        let mut running: Vec<(libc::pid_t, PathBuf)> = Vec::with_capacity(at_once);
        for number in 0..count {
            if running.len() == at_once {
                end_one(&mut running)?;
            }
            let workspace = self.root.path().join(number.to_string());
            fs::create_dir(&workspace)?;
            running.push((spawn(&self.program)?, workspace));
        }
        while !running.is_empty() {
            end_one(&mut running)?;
        }
        Ok(Took { wall: start.elapsed(), cpu: proc::cpu_of_this_thread().saturating_sub(cpu_before) })
    }
}

fn end_one(running: &mut Vec<(libc::pid_t, PathBuf)>) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: `status` lives through the call. The workers are children too, but none of them ends meanwhile.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
    let ended = running.iter().position(|(running, _)| *running == pid).ok_or_else(io::Error::last_os_error)?;
    fs::remove_dir(running.swap_remove(ended).1)
}

fn spawn(program: &CString) -> io::Result<libc::pid_t> {
    let arguments = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let environment = [c"PATH=/usr/bin:/bin".as_ptr().cast_mut(), c"HOME=/".as_ptr().cast_mut(), ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: the program and both arrays, each ended by a null pointer, live through the call.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            ptr::null(),
            ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
}
