//! One step at a time, shown while it runs: on a terminal a line that counts the seconds, in a pipe plain lines.
//! Talk goes to stderr; nothing here is data.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::program::LastLine;

/// How often the line on a terminal is drawn again.
const FRAME: Duration = Duration::from_millis(200);
/// How often a pipe is told that a long step still runs.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// What of the step's own words fits beside its name.
const DETAIL_WIDTH: usize = 70;

/// A step under way. Dropping it without `done` or `failed` only takes its line away.
pub struct Step {
    name: String,
    started: Instant,
    detail: LastLine,
    ended: Arc<(Mutex<bool>, Condvar)>,
    painter: Option<JoinHandle<()>>,
    /// It has the terminal's last line for itself.
    drawn: bool,
}

impl Step {
    pub fn begin(name: impl Into<String>) -> Self {
        let name = name.into();
        if !std::io::stderr().is_terminal() {
            eprintln!("{name} …");
        }
        Self::begin_silently(name)
    }

    /// Told in plain lines on a terminal too, because another step runs at the same time.
    pub fn begin_beside(name: impl Into<String>) -> Self {
        Self::with(name.into(), false)
    }

    /// In a pipe only its end is told, so that a list of steps reads as a table.
    pub fn begin_silently(name: impl Into<String>) -> Self {
        Self::with(name.into(), std::io::stderr().is_terminal())
    }

    fn with(name: String, drawn: bool) -> Self {
        let started = Instant::now();
        let detail = LastLine::default();
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let painter = {
            let (name, detail, ended) = (name.clone(), detail.clone(), Arc::clone(&ended));
            std::thread::spawn(move || paint(&name, started, &detail, &ended, drawn))
        };
        Self {
            name,
            started,
            detail,
            ended,
            painter: Some(painter),
            drawn,
        }
    }

    /// Where lines that say how far the step is can be put.
    pub fn detail(&self) -> LastLine {
        self.detail.clone()
    }

    /// Where the words of a program that tells its own progress can be put: a line of its own shows the newest, plain
    /// lines tell all.
    pub fn talk(&self) -> Talk {
        Talk {
            detail: self.detail.clone(),
            all: !self.drawn,
        }
    }

    pub fn done(self, what: &str) -> Duration {
        self.end("ok", what)
    }

    pub fn failed(self, what: &str) -> Duration {
        self.end("FAILED", what)
    }

    fn end(mut self, mark: &str, what: &str) -> Duration {
        let took = self.started.elapsed();
        self.stop_painting();
        let what = if what.is_empty() {
            String::new()
        } else {
            format!("  {what}")
        };
        eprintln!("{:<44} {mark:<6} {:>8}{what}", self.name, seconds(took));
        took
    }

    fn stop_painting(&mut self) {
        let (ended, wake) = &*self.ended;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
        if let Some(painter) = self.painter.take() {
            // The painter only draws: if it panicked there is nothing to undo.
            let _ = painter.join();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.stop_painting();
    }
}

/// What a program says while a step runs it.
#[derive(Debug, Clone)]
pub struct Talk {
    detail: LastLine,
    all: bool,
}

impl Talk {
    pub fn say(&self, line: &str) {
        self.detail.set(line);
        if self.all && !line.trim().is_empty() {
            eprintln!("    {line}");
        }
    }
}

fn paint(
    name: &str,
    started: Instant,
    detail: &LastLine,
    ended: &(Mutex<bool>, Condvar),
    drawn: bool,
) {
    let period = if drawn { FRAME } else { HEARTBEAT };
    let (flag, wake) = ended;
    let mut over = flag.lock().unwrap_or_else(PoisonError::into_inner);
    while !*over {
        let line = format!(
            "{name} … {}  {}",
            seconds(started.elapsed()),
            shortened(&detail.get(), DETAIL_WIDTH)
        );
        if drawn {
            eprint!("\r\x1b[2K{line}");
            let _ = std::io::stderr().flush();
        } else if started.elapsed() >= HEARTBEAT {
            eprintln!("{line}");
        }
        over = wake
            .wait_timeout(over, period)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
    if drawn {
        eprint!("\r\x1b[2K");
    }
}

pub fn seconds(time: Duration) -> String {
    let all = time.as_secs_f64();
    if all < 100.0 {
        return format!("{all:.1} s");
    }
    format!("{}:{:02} min", time.as_secs() / 60, time.as_secs() % 60)
}

pub fn shortened(line: &str, width: usize) -> String {
    let plain: String = line.chars().filter(|c| !c.is_control()).collect();
    if plain.chars().count() <= width {
        return plain;
    }
    let kept: String = plain.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_readable_at_every_size() {
        let check =
            |millis, expected: &str| assert_eq!(seconds(Duration::from_millis(millis)), expected);
        check(40, "0.0 s");
        check(8_250, "8.2 s");
        check(99_000, "99.0 s");
        check(183_000, "3:03 min");
    }

    #[test]
    fn a_long_line_is_cut_and_control_characters_are_left_out() {
        assert_eq!(shortened("a\u{1b}[1mb", 10), "a[1mb");
        assert_eq!(shortened("abcdef", 4), "abc…");
    }
}
