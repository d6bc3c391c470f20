//! Live progress on a terminal: one line that moves, above which finished lines are printed.
//!
//! Where stderr is no terminal there is no live line, and callers print plain ones.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::io::Io;

/// How often the elapsed time moves.
const TICK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "  {spinner} {msg} {elapsed}";

pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn start(io: &Io) -> Progress {
        let bar = io.terminal.stderr.then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant that a test holds to be good.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Progress { bar }
    }

    pub fn is_live(&self) -> bool {
        self.bar.is_some()
    }

    /// What is being done now; the elapsed time goes on.
    pub fn show(&self, text: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.into());
        }
    }

    /// Something new begins: the elapsed time starts again.
    pub fn restart(&self, text: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.reset_elapsed();
        }
        self.show(text);
    }

    /// A line that stays.
    pub fn say(&self, io: &mut Io, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| io.say(text)),
            None => io.say(text),
        }
    }
}

impl Drop for Progress {
    /// Also when the command is interrupted: the terminal must not keep half a line.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_good() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
