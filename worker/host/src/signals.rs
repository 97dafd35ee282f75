//! What signals do to this process, whatever its parent left it: set once, before anything else runs.

use rustix::process::Signal;

/// What ends or stops a process that does nothing about it, and means nothing to the worker. A worker that a terminal stopped would
/// lose its connection while its tasks go on. The real-time signals come on top.
const NOT_FOR_US: [Signal; 14] = [
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::STKFLT,
    Signal::XFSZ,
    Signal::XCPU,
    Signal::PIPE,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
];

/// Makes signals mean to this process what they should: none is blocked, the end of a child is told, those that are not for the
/// worker change nothing. To be called first, while there is one thread. What asks the worker to stop is handled where it is
/// awaited; `SIGHUP` stays ignored when it is now, for somebody said `nohup`.
pub fn set_signals() {
    // SAFETY: no handler of ours is installed, only the two actions of the kernel's; all sets are initialised by the calls that
    // take them, and there is no other thread.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        for signal in NOT_FOR_US.iter().map(|signal| signal.as_raw()).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Whether this process ignores `SIGHUP`: it was started so, by `nohup` for one.
pub fn ignores_hangup() -> bool {
    // SAFETY: no action is set; the one that is found is a plain structure of numbers.
    unsafe {
        let mut found: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut found) == 0 && found.sa_sigaction == libc::SIG_IGN
    }
}
