//! The supervisor between us and a program, and the double fork of a daemon: everything here runs
//! between `fork` and `exec`, so it allocates nothing, takes no lock and makes system calls only.
//! It must not be called from anywhere but `Command`'s `pre_exec`.
#![allow(unsafe_code)]

use libc::{c_int, c_void, pid_t};
use std::io;
use std::os::fd::RawFd;

/// Set up on the parent's side, used on the child's.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Read end of the pipe whose closing means: end the tree.
    pub lifeline: RawFd,
    /// Write end of the pipe that carries the program's process id to us.
    pub report: RawFd,
    /// Between `SIGTERM` and `SIGKILL`.
    pub grace_ms: c_int,
}

/// On the lifeline, asks for `SIGKILL` without the grace period.
pub(crate) const KILL_NOW: u8 = b'K';

/// How often a round of killing is repeated when new descendants keep appearing, before the
/// supervisor gives up. A round kills everything visible; only a fork bomb needs a second.
const KILL_ROUNDS: u32 = 10_000;

/// Forks: the caller becomes the supervisor and never returns; the new child returns and goes on
/// to `exec`.
pub(crate) fn become_supervised(plan: Plan) -> io::Result<()> {
    // SAFETY: only system calls on values and descriptors that this process owns; we are the only
    // thread of a freshly forked process.
    unsafe {
        libc::setsid();
        if libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        // Blocked before the fork: the handlers that we inherited belong to the parent's runtime
        // and would write into its pipes.
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let supervisor = libc::getpid();
        match fork_raw()? {
            0 => {
                libc::setsid();
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                if libc::getppid() != supervisor {
                    libc::_exit(1);
                }
                no_core_dump();
                report_pid(plan.report)?;
                libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
                Ok(())
            }
            program => supervise(plan, program),
        }
    }
}

/// Forks twice in effect: the caller's process ends at once, so the new child belongs to init and
/// to nobody's session. The child returns and goes on to `exec`.
pub(crate) fn become_daemon(report: RawFd) -> io::Result<()> {
    // SAFETY: as above.
    unsafe {
        libc::setsid();
        match fork_raw()? {
            0 => {
                libc::setsid();
                no_core_dump();
                report_pid(report)
            }
            _ => libc::_exit(0),
        }
    }
}

/// `fork` without the C library's handlers, which may take locks that a thread of the parent held.
unsafe fn fork_raw() -> io::Result<pid_t> {
    // SAFETY: a plain fork; no memory or stack is shared with the child.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(pid as pid_t)
    }
}

unsafe fn no_core_dump() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

unsafe fn report_pid(report: RawFd) -> io::Result<()> {
    // SAFETY: the buffer is four bytes on this stack.
    unsafe {
        let pid = libc::getpid().to_ne_bytes();
        if libc::write(report, pid.as_ptr().cast::<c_void>(), pid.len()) == pid.len() as isize {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// The supervisor's life: wait for the program's end or for the lifeline's, then leave nothing.
unsafe fn supervise(plan: Plan, program: pid_t) -> ! {
    // SAFETY: system calls on descriptors that this process owns.
    unsafe {
        // Everything inherited is closed, above all the pipes of the program: its output must end
        // when the last process of the tree ends, not when we do.
        libc::dup2(plan.lifeline, 0);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        let mut watched: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut watched);
        libc::sigaddset(&raw mut watched, libc::SIGCHLD);
        libc::sigaddset(&raw mut watched, libc::SIGTERM);
        let signals = libc::signalfd(-1, &raw const watched, libc::SFD_CLOEXEC);
        let status = match watch(program, 0, signals, -1) {
            Ended::Program(status) => status,
            Ended::KillNow => kill_and_wait(program),
            Ended::Stop => {
                libc::kill(-program, libc::SIGTERM);
                match watch(program, -1, signals, plan.grace_ms) {
                    Ended::Program(status) => status,
                    Ended::KillNow | Ended::Stop => kill_and_wait(program),
                }
            }
        };
        kill_all_below();
        exit_like(status)
    }
}

enum Ended {
    /// With this wait status.
    Program(c_int),
    /// The lifeline closed, we were told to terminate, or the time ran out.
    Stop,
    KillNow,
}

/// Reaps whatever ends until the program does, the lifeline speaks or `timeout_ms` is over.
unsafe fn watch(program: pid_t, lifeline: RawFd, signals: RawFd, timeout_ms: c_int) -> Ended {
    // SAFETY: buffers are on this stack and their sizes are passed.
    unsafe {
        let until = now_ms() + i64::from(timeout_ms);
        loop {
            if let Some(status) = reap(program) {
                return Ended::Program(status);
            }
            let left = if timeout_ms < 0 {
                -1
            } else {
                match until - now_ms() {
                    left if left > 0 => left as c_int,
                    _ => return Ended::Stop,
                }
            };
            let mut fds = [
                libc::pollfd {
                    fd: signals,
                    events: libc::POLLIN,
                    revents: 0,
                },
                libc::pollfd {
                    fd: lifeline,
                    events: libc::POLLIN,
                    revents: 0,
                },
            ];
            libc::poll(fds.as_mut_ptr(), 2, left);
            if fds[0].revents != 0 {
                let mut info: libc::signalfd_siginfo = std::mem::zeroed();
                let size = std::mem::size_of::<libc::signalfd_siginfo>();
                libc::read(signals, (&raw mut info).cast::<c_void>(), size);
                if info.ssi_signo == libc::SIGTERM as u32 && lifeline >= 0 {
                    return Ended::Stop;
                }
            }
            if fds[1].revents != 0 {
                let mut byte = 0u8;
                let got = libc::read(lifeline, (&raw mut byte).cast::<c_void>(), 1);
                return if got == 1 && byte == KILL_NOW {
                    Ended::KillNow
                } else {
                    Ended::Stop
                };
            }
        }
    }
}

unsafe fn now_ms() -> i64 {
    // SAFETY: the struct is on this stack.
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
        now.tv_sec * 1000 + now.tv_nsec / 1_000_000
    }
}

/// Reaps every ended child; the program's status if it was among them.
unsafe fn reap(program: pid_t) -> Option<c_int> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: the status is on this stack.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return found;
        }
        if pid == program {
            found = Some(status);
        }
    }
}

unsafe fn kill_and_wait(program: pid_t) -> c_int {
    // SAFETY: the status is on this stack; the program is our unreaped child, so its id is its own.
    unsafe {
        libc::kill(-program, libc::SIGKILL);
        libc::kill(program, libc::SIGKILL);
        let mut status = 0;
        while libc::waitpid(program, &raw mut status, 0) < 0 {
            if *libc::__errno_location() != libc::EINTR {
                break;
            }
        }
        status
    }
}

/// Kills our children until there are none: killing one gives us its children, as we are their
/// reaper, so the whole tree comes past here.
unsafe fn kill_all_below() {
    // SAFETY: system calls only.
    unsafe {
        let me = libc::getpid();
        for _ in 0..KILL_ROUNDS {
            loop {
                let pid = libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG);
                if pid < 0 {
                    return; // no child at all
                }
                if pid == 0 {
                    break;
                }
            }
            kill_children_of(me);
            // At least one child was alive above and has now been sent SIGKILL.
            if libc::waitpid(-1, std::ptr::null_mut(), 0) < 0 {
                return;
            }
        }
    }
}

/// Walks `/proc` for processes whose parent is `me`. The `children` file would be shorter, but it
/// is not in every kernel.
unsafe fn kill_children_of(me: pid_t) {
    // SAFETY: buffers are on this stack, their sizes are passed, and every offset into the
    // directory buffer is one that the kernel filled in.
    unsafe {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let proc = libc::open(c"/proc".as_ptr(), flags);
        if proc < 0 {
            return;
        }
        let mut entries = [0u64; 1024];
        loop {
            let size = std::mem::size_of_val(&entries);
            let got = libc::syscall(libc::SYS_getdents64, proc, entries.as_mut_ptr(), size);
            if got <= 0 {
                break;
            }
            let bytes = std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), got as usize);
            let mut at = 0;
            // struct linux_dirent64: inode 8, offset 8, record length 2, type 1, name.
            while at + 19 < bytes.len() {
                let length = u16::from_ne_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
                if length == 0 {
                    break;
                }
                let name = &bytes[at + 19..(at + length).min(bytes.len())];
                if let Some(pid) = parse_number(name)
                    && parent_of(proc, name) == Some(me)
                {
                    libc::kill(pid, libc::SIGKILL);
                }
                at += length;
            }
        }
        libc::close(proc);
    }
}

unsafe fn parent_of(proc: RawFd, pid_name: &[u8]) -> Option<pid_t> {
    let mut path = [0u8; 32];
    let digits = pid_name.iter().take_while(|b| b.is_ascii_digit()).count();
    let name = pid_name.get(..digits)?;
    path.get_mut(..digits)?.copy_from_slice(name);
    path.get_mut(digits..digits + 5)?.copy_from_slice(b"/stat");
    // SAFETY: the path ends with a zero, as it is longer than what was copied in.
    unsafe {
        let file = libc::openat(proc, path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let mut stat = [0u8; 256];
        let got = libc::read(file, stat.as_mut_ptr().cast::<c_void>(), stat.len());
        libc::close(file);
        parse_parent(stat.get(..usize::try_from(got).ok()?)?)
    }
}

/// `1234 (a name) S 17 …`: the name may hold anything, so fields count from the last parenthesis.
fn parse_parent(stat: &[u8]) -> Option<pid_t> {
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    parse_number(stat.get(close + 4..)?)
}

fn parse_number(text: &[u8]) -> Option<pid_t> {
    let mut value: Option<pid_t> = None;
    for byte in text {
        if !byte.is_ascii_digit() {
            break;
        }
        let digit = pid_t::from(byte - b'0');
        value = Some(value.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
    }
    value
}

/// Ends as the program ended, so that our parent's `wait` sees its status.
unsafe fn exit_like(status: c_int) -> ! {
    // SAFETY: ends this process.
    unsafe {
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            no_core_dump();
            libc::signal(signal, libc::SIG_DFL);
            let mut only: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut only);
            libc::sigaddset(&raw mut only, signal);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
            libc::kill(libc::getpid(), signal);
        }
        libc::_exit(libc::WEXITSTATUS(status))
    }
}

/// The same for any pid, outside of a fork: `set` is called in the child.
pub(crate) fn set_pre_exec(
    command: &mut std::process::Command,
    run: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    use std::os::unix::process::CommandExt;
    // SAFETY: `run` is one of the two functions above, which make system calls only.
    unsafe {
        command.pre_exec(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_is_read_past_any_name() {
        let check = |stat: &[u8], expected: Option<pid_t>| assert_eq!(parse_parent(stat), expected);
        check(b"12 (sh) S 7 12 12 0", Some(7));
        check(b"12 (a) S 9 (b) R 431 0", Some(431));
        check(b"12 (sh) S ", None);
        check(b"", None);
        check(b"12 (sh) S 99999999999999", None);
    }
}
