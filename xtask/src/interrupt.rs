//! Ctrl-C: noticed, not fatal at once, so that a command can say what goes on without it and how to go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};

/// What a shell expects of a program that Ctrl-C ended: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

static SEEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Start noticing. A second Ctrl-C ends the program at once.
pub fn watch() -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let seen = SEEN.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the shutdown is armed by the flag that the line after it sets.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(EXIT_CODE),
            Arc::clone(seen),
        )
        .context("cannot watch for Ctrl-C")?;
        signal_hook::flag::register(signal, Arc::clone(seen)).context("cannot watch for Ctrl-C")?;
    }
    Ok(())
}

pub fn happened() -> bool {
    SEEN.get().is_some_and(|seen| seen.load(Ordering::Relaxed))
}
