//! Starts a process: everything is prepared before, so that between `clone3` and `execve` only system calls happen.
//!
//! `clone3` rather than `posix_spawn`, because only it can put the child into a cgroup from its first moment on
//! (`CLONE_INTO_CGROUP`; moving it there later is slow, and misses what it has started by then) and give a pidfd at once.
//! The child borrows our memory until it executes (`CLONE_VM | CLONE_VFORK`), exactly as `posix_spawn` does it: a `fork`
//! that copies the page tables reaches only 60 % of its throughput.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString, c_char, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{io, ptr};

use rustix::process::Pid;

use oz_worker_runtime::Command;

use crate::tag::Tag;

/// Why a process was not started. Never holds an argument's or a variable's value.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program's path, or that of the working directory.
    #[error("the path {} has a NUL byte", .0.display())]
    NulInPath(PathBuf),
    #[error("argument {0} has a NUL byte")]
    NulInArgument(usize),
    #[error("the value of the environment variable {0:?} has a NUL byte")]
    NulInValue(OsString),
    #[error("{0:?} cannot be the name of an environment variable: it is empty, or has `=` or a NUL byte")]
    VariableName(OsString),
    /// The working directory cannot be entered.
    #[error("cannot enter the directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot execute {}: {}", path.display(), explain(source, path))]
    Program { path: PathBuf, source: io::Error },
    /// No process can be made.
    #[error("cannot start another process: {0}")]
    Process(io::Error),
}

/// What the operating system's answer to `execve` means here.
fn explain(error: &io::Error, program: &Path) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) if program.exists() => {
            "it exists, but the interpreter in its first line, or the loader it was linked for, does not".to_owned()
        }
        Some(libc::EACCES) => format!("{error}; is it executable, and is it a file?"),
        Some(libc::ENOEXEC) => "it is neither a program for this machine nor a script that begins with #!".to_owned(),
        Some(libc::E2BIG) => "its arguments and environment together are too long for this system".to_owned(),
        _ => error.to_string(),
    }
}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        let kind = match &error {
            StartError::Directory { source, .. } | StartError::Program { source, .. } | StartError::Process(source) => {
                source.kind()
            }
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// A command as the operating system wants it. Refuses what the operating system would misunderstand.
#[derive(Debug)]
pub(super) struct Prepared {
    pub program: CString,
    /// None: where the worker runs.
    pub cwd: Option<CString>,
    /// The program's name included.
    pub args: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
}

impl Prepared {
    /// `command`, with the variables of `more` added, which win.
    pub fn new(command: &Command, more: &[(&str, &OsStr)]) -> Result<Self, StartError> {
        let path =
            |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|_| StartError::NulInPath(path.to_owned()));
        let program = path(&command.program)?;
        let mut args = vec![program.clone()];
        for (index, arg) in command.args.iter().enumerate() {
            args.push(CString::new(arg.as_bytes()).map_err(|_| StartError::NulInArgument(index + 1))?);
        }
        let given = command.env.iter();
        let more = more.iter().map(|(name, value)| (OsStr::new(name), *value));
        // One entry per name: what a program makes of two is its own secret.
        let env: BTreeMap<&OsStr, &OsStr> = given.chain(more).collect();
        let env = env.into_iter().map(|(name, value)| variable(name, value)).collect::<Result<_, _>>()?;
        Ok(Self { program, cwd: command.cwd.as_deref().map(path).transpose()?, args, env })
    }
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, StartError> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.iter().any(|byte| matches!(byte, 0 | b'=')) {
        return Err(StartError::VariableName(name.to_owned()));
    }
    let mut entry = Vec::with_capacity(bytes.len() + value.len() + 2);
    entry.extend_from_slice(bytes);
    entry.push(b'=');
    entry.extend_from_slice(value.as_bytes());
    CString::new(entry).map_err(|_| StartError::NulInValue(name.to_owned()))
}

/// The ends of pipes and files that the child gets, and limits to set in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub input: BorrowedFd<'a>,
    pub output: BorrowedFd<'a>,
    /// The same as `output` when both are merged.
    pub errors: BorrowedFd<'a>,
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The number of open files that the worker was started with, when it has raised its own.
    pub open_files: Option<libc::rlimit>,
    /// The tag of the tree.
    pub tag: Option<Tag>,
}

#[derive(Debug)]
pub(super) enum Attempt {
    Started(Pid, OwnedFd),
    Failed(StartError),
    /// `clone3` is not to be had: an old kernel, a sandbox that forbids it, a processor we have no entry for.
    Unsupported,
    /// The child cannot be put into the cgroup.
    BadCgroup,
}

/// Starts `prepared` as the leader of a session of its own.
pub(super) fn spawn(prepared: &Prepared, setting: Setting<'_>) -> Attempt {
    let (args, env) = (pointers(&prepared.args), pointers(&prepared.env));
    let mut plan = Plan {
        program: prepared.program.as_ptr(),
        args: args.as_ptr(),
        env: env.as_ptr(),
        cwd: prepared.cwd.as_ref().map_or(ptr::null(), |cwd| cwd.as_ptr()),
        input: setting.input.as_raw_fd(),
        output: setting.output.as_raw_fd(),
        errors: setting.errors.as_raw_fd(),
        open_files: setting.open_files,
        tag: setting.tag.map(Tag::limit),
        ignored: ignored_signals(),
        failed: Stage::None,
        errno: 0,
    };
    let (pid, pidfd) = match clone_child(&mut plan, setting.cgroup) {
        Ok(started) => started,
        Err(libc::ENOSYS | libc::EPERM | libc::EINVAL) if setting.cgroup.is_none() => return Attempt::Unsupported,
        Err(error @ (libc::EAGAIN | libc::ENOMEM)) => {
            return Attempt::Failed(StartError::Process(io::Error::from_raw_os_error(error)));
        }
        Err(_) if setting.cgroup.is_some() => return Attempt::BadCgroup,
        Err(error) => return Attempt::Failed(StartError::Process(io::Error::from_raw_os_error(error))),
    };
    if plan.failed == Stage::None {
        return Attempt::Started(pid, pidfd);
    }
    // It never became anything: gone before anybody hears of it.
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
        rustix::process::WaitIdOptions::EXITED,
    );
    let source = io::Error::from_raw_os_error(plan.errno);
    Attempt::Failed(match plan.failed {
        Stage::Directory => {
            StartError::Directory { path: prepared.cwd.as_ref().map(to_path).unwrap_or_default(), source }
        }
        Stage::Program => StartError::Program { path: to_path(&prepared.program), source },
        Stage::None | Stage::Descriptors => StartError::Process(source),
    })
}

/// As `execve` wants them.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// What a child does that somebody else made: becomes a task's and executes its program. Not left to std, which hands a file
/// that is no program to a shell.
pub(super) struct LastStep {
    program: *const c_char,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    ignored: &'static [c_int],
    open_files: Option<libc::rlimit>,
    tag: Option<libc::rlimit>,
}

// SAFETY: the pointers are only followed in the new process, where no other thread is.
unsafe impl Send for LastStep {}
// SAFETY: as above.
unsafe impl Sync for LastStep {}

impl LastStep {
    /// For `prepared`, which must live until the step is taken.
    pub fn new(prepared: &Prepared, setting: Setting<'_>) -> Self {
        Self {
            program: prepared.program.as_ptr(),
            args: pointers(&prepared.args),
            env: pointers(&prepared.env),
            ignored: ignored_signals(),
            open_files: setting.open_files,
            tag: setting.tag.map(Tag::limit),
        }
    }

    /// Comes back only when the program cannot be executed.
    ///
    /// # Safety
    /// As for [`become_a_tasks`].
    pub unsafe fn take(&self) -> io::Error {
        // SAFETY: the caller vouches for the process; the strings and their lists live in its copy of our memory.
        unsafe {
            become_a_tasks(self.ignored, self.open_files.as_ref(), self.tag.as_ref());
            libc::execve(self.program, self.args.as_ptr(), self.env.as_ptr());
        }
        io::Error::last_os_error()
    }
}

pub(super) fn to_path(string: &CString) -> PathBuf {
    OsString::from_vec(string.as_bytes().to_vec()).into()
}

/// What the child has to do, and where it says how far it came. It lives in our memory while we stand still.
struct Plan {
    program: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    input: c_int,
    output: c_int,
    errors: c_int,
    open_files: Option<libc::rlimit>,
    tag: Option<libc::rlimit>,
    ignored: &'static [c_int],
    failed: Stage,
    errno: c_int,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    None,
    Descriptors,
    Directory,
    Program,
}

/// The signals that we or our own parent ignore (Rust: SIGPIPE; a shell in the background: SIGINT), which is not the task's
/// wish. Asked for once: nothing here comes to ignore more.
fn ignored_signals() -> &'static [c_int] {
    static IGNORED: OnceLock<Vec<c_int>> = OnceLock::new();
    IGNORED.get_or_init(|| {
        let is_ignored = |signal: &c_int| {
            // The kernel's form, which begins with the handler. Not through libc, which keeps two signals to itself.
            let mut action = [0_u64; 4];
            // SAFETY: `action` has room for the kernel's `struct sigaction`; no action is set.
            let asked = unsafe {
                let (none, found) = (ptr::null::<u64>(), &raw mut action);
                libc::syscall(libc::SYS_rt_sigaction, *signal, none, found, size_of::<u64>())
            };
            asked == 0 && action.first() == Some(&(libc::SIG_IGN as u64))
        };
        (1..=64).filter(is_ignored).collect()
    })
}

/// The argument of `clone3` (clone(2)), in its first size that knows cgroups.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Every handler becomes the default action in the child: none of ours may run there, in memory that it shares with us.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// More than enough for [`child`] and the thin system call wrappers it calls, in units of 16 bytes: 32 KiB, of which
/// only the pages that are used ever exist.
const STACK: usize = 2048;

/// Makes the child and stands still until it has executed its program or given up. Gives `clone3`'s errno.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn clone_child(plan: &mut Plan, cgroup: Option<BorrowedFd<'_>>) -> Result<(Pid, OwnedFd), c_int> {
    let mut stack = Box::<[u128]>::new_uninit_slice(STACK);
    let mut pidfd: c_int = -1;
    let flags = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD).cast_unsigned();
    let mut clone = CloneArgs {
        flags: u64::from(flags) | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val::<[_]>(&stack) as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }

    // SAFETY: the signal sets are initialised by the calls that take them. All signals stay blocked while the child
    // shares our memory and thread-local storage. The child runs `child` on a stack of its own, which lives as long as
    // `stack`, and never returns from it; because of CLONE_VFORK this thread does not go on before the child has left
    // our memory, so `plan` and all it points at are not moved or freed under it.
    let result = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let result = clone3(&raw const clone, plan);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        result
    };
    drop(stack);
    match c_int::try_from(result).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) {
        // SAFETY: the kernel has just put a new descriptor there, which nobody else knows.
        Some(pid) => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
        None => Err(c_int::try_from(-result).unwrap_or(libc::EINVAL)),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn clone_child(_: &mut Plan, _: Option<BorrowedFd<'_>>) -> Result<(Pid, OwnedFd), c_int> {
    Err(libc::ENOSYS)
}

/// The system call. In assembly, because the child comes out of it on an empty stack: there is nothing to return to, so
/// it has to go on in [`child`] at once.
///
/// # Safety
/// `clone` must describe a child with a stack of its own and `CLONE_VM | CLONE_VFORK`; `plan` must be valid for it.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(clone: *const CloneArgs, plan: *mut Plan) -> libc::c_long {
    let result;
    // SAFETY: as above; the kernel keeps every register but rax, rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {plan}",
            "call {child}",
            "ud2",
            "2:",
            plan = in(reg) plan,
            child = in(reg) child as unsafe extern "C" fn(*mut Plan) -> !,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") clone,
            in("rsi") size_of::<CloneArgs>(),
            // Not `lateout`: the system call overwrites them before `plan` and `child` are used.
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// See the version for `x86_64`.
///
/// # Safety
/// As there.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(clone: *const CloneArgs, plan: *mut Plan) -> libc::c_long {
    let result;
    // SAFETY: as above; the kernel keeps every register but x0.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, {plan}",
            "blr {child}",
            "brk #1",
            "2:",
            plan = in(reg) plan,
            child = in(reg) child as unsafe extern "C" fn(*mut Plan) -> !,
            in("x8") libc::SYS_clone3,
            inlateout("x0") clone => result,
            in("x1") size_of::<CloneArgs>(),
        );
    }
    result
}

/// The child's whole life in our memory. Only system calls: another thread may hold any lock, the allocator's too.
///
/// # Safety
/// Only for a new process that shares our memory while we stand still; `plan` and all it points at must be valid.
unsafe extern "C" fn child(plan: *mut Plan) -> ! {
    // SAFETY: the caller vouches for `plan`; every pointer handed on comes from it or from this stack. All calls are
    // async-signal-safe (signal-safety(7)) or bare system calls.
    unsafe {
        let plan = &mut *plan;
        become_a_tasks(plan.ignored, plan.open_files.as_ref(), plan.tag.as_ref());
        // Ours are at least 3 (std makes sure that 0, 1 and 2 are open), so none overwrites another.
        if libc::dup2(plan.input, 0) < 0 || libc::dup2(plan.output, 1) < 0 || libc::dup2(plan.errors, 2) < 0 {
            give_up(plan, Stage::Descriptors);
        }
        // Ours close by themselves; this is for what our parent left open when it started us.
        libc::syscall(libc::SYS_close_range, 3, c_int::MAX, 0);
        if !plan.cwd.is_null() && libc::chdir(plan.cwd) != 0 {
            give_up(plan, Stage::Directory);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(plan.program, plan.args, plan.env);
        give_up(plan, Stage::Program)
    }
}

/// What every child has of its own from its first moment, whichever way it is started.
///
/// # Safety
/// Only in a new process that has executed nothing yet. Only system calls happen here.
unsafe fn become_a_tasks(ignored: &[c_int], open_files: Option<&libc::rlimit>, tag: Option<&libc::rlimit>) {
    // SAFETY: bare system calls; all pointers are to values that live until they return.
    unsafe {
        // A session has no terminal until somebody opens one, and its leader leads a process group too.
        libc::setsid();
        // All zeros is the kernel's form of SIG_DFL.
        let default = [0_u64; 4];
        for signal in ignored {
            libc::syscall(libc::SYS_rt_sigaction, *signal, &raw const default, ptr::null::<u64>(), size_of::<u64>());
        }
        if let Some(limit) = open_files {
            libc::setrlimit(libc::RLIMIT_NOFILE, limit);
        }
        if let Some(limit) = tag {
            libc::setrlimit(libc::RLIMIT_RSS, limit);
        }
    }
}

/// Tells the parent and ends.
///
/// # Safety
/// Only in the child, directly after a libc call that failed.
unsafe fn give_up(plan: &mut Plan, stage: Stage) -> ! {
    // SAFETY: errno is our parent's too, which stands still and does not look at it.
    unsafe {
        plan.errno = *libc::__errno_location();
        plan.failed = stage;
        libc::_exit(127)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use oz_worker_runtime::Pipes;

    use super::*;

    fn command() -> Command {
        Command {
            program: "/bin/true".into(),
            args: vec!["one".into(), "two".into()],
            env: [("A", "first"), ("B", "="), ("A", "second")].into_iter().collect(),
            cwd: Some("/".into()),
            input: false,
            output: Pipes::Merged,
        }
    }

    #[test]
    fn of_two_entries_for_a_variable_the_later_wins() {
        let prepared = Prepared::new(&command(), &[("B", OsStr::new("token"))]).unwrap();
        assert_eq!(prepared.env, [c"A=second".to_owned(), c"B=token".to_owned()]);
        assert_eq!(prepared.args, [c"/bin/true".to_owned(), c"one".to_owned(), c"two".to_owned()]);
    }

    #[test]
    fn refuses_what_cannot_be_passed_and_never_prints_a_value() {
        let refused = |change: fn(&mut Command)| {
            let mut command = command();
            change(&mut command);
            let error = io::Error::from(Prepared::new(&command, &[]).unwrap_err());
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(!error.to_string().contains("canary") && !format!("{error:?}").contains("canary"), "{error:?}");
            error.to_string()
        };
        assert_eq!(refused(|c| c.args[1] = "canary\0".into()), "argument 2 has a NUL byte");
        assert_eq!(
            refused(|c| c.env.set("KEY", "canary\0")),
            "the value of the environment variable \"KEY\" has a NUL byte"
        );
        for (name, text) in [("", "\"\""), ("A=B", "\"A=B\""), ("A\0", "\"A\\0\"")] {
            let mut command = command();
            command.env.set(name, "canary");
            let text =
                format!("{text} cannot be the name of an environment variable: it is empty, or has `=` or a NUL byte");
            assert_eq!(Prepared::new(&command, &[]).unwrap_err().to_string(), text);
        }
        assert!(refused(|c| c.program = "/bin/\0".into()).starts_with("the path /bin/"));
        assert!(refused(|c| c.cwd = Some("/\0".into())).starts_with("the path /"));
    }
}
