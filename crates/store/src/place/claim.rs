//! One process at a time, where there is no lock: a small object that says who has the prefix, and
//! that its owner keeps changing.
//!
//! No clock is compared. Who finds the claim of another process watches it: one that does not change
//! belongs to nobody any more. The owner looks before each beat whether the claim is still its own
//! and writes nothing more once it is not. Where conditional writes are ignored, two processes that
//! start at the same moment are told apart by reading back what was written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::object::{Objects, runtime, wait};

const NAME: &str = ".claim";
/// Beats for which a claim must not have changed before it counts as left behind.
const SILENT_BEATS: u32 = 3;

/// A claim as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Random, for each time a process takes the prefix.
    owner: String,
    /// Of the running kernel and its table of processes: within it, a process id says who is alive.
    host: String,
    pid: u32,
    beats: u64,
}

#[derive(Debug)]
pub(super) struct Claim {
    objects: Objects,
    lost: Arc<AtomicBool>,
    beating: JoinHandle<()>,
}

impl Claim {
    pub(super) fn take(objects: &Objects, conditions: bool, beat: Duration) -> io::Result<Claim> {
        let note = Note {
            owner: format!("{:032x}", rand::random::<u128>()),
            host: host(),
            pid: std::process::id(),
            beats: 0,
        };
        let (asked, wanted) = (objects.clone(), note.clone());
        wait(async move { take(&asked, &wanted, conditions, beat).await })?;
        let lost = Arc::new(AtomicBool::new(false));
        let beating = runtime()?.spawn(keep(objects.clone(), note, beat, Arc::clone(&lost)));
        Ok(Claim {
            objects: objects.clone(),
            lost,
            beating,
        })
    }

    /// An error once another process has taken the prefix.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.lost.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(io::Error::other(
                "another process took this store over; end one of the two and open it again",
            )),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.beating.abort();
        if self.check().is_ok() {
            let objects = self.objects.clone();
            // If this fails, the next process waits until the claim proves silent.
            let _ = wait(async move { objects.delete(NAME).await });
        }
    }
}

async fn read(objects: &Objects) -> io::Result<Option<Note>> {
    let bytes = objects.get(NAME).await?;
    // What cannot be understood keeps nobody out for ever: it is watched like any other.
    let unknown = || Note {
        owner: String::new(),
        host: String::new(),
        pid: 0,
        beats: 0,
    };
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_else(|_| unknown())))
}

async fn take(objects: &Objects, note: &Note, conditions: bool, beat: Duration) -> io::Result<()> {
    let taken = || io::Error::from(io::ErrorKind::WouldBlock);
    let found = read(objects).await?;
    if let Some(found) = &found
        && !is_over(found)
    {
        for _ in 0..SILENT_BEATS {
            tokio::time::sleep(beat).await;
            if read(objects).await?.as_ref() != Some(found) {
                return Err(taken());
            }
        }
    }
    let bytes = serde_json::to_vec(note)?;
    if found.is_none() && conditions {
        let made = objects.create(NAME, bytes).await;
        if made
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
        {
            return Err(taken());
        }
        made?;
    } else {
        objects.put(NAME, bytes).await?;
    }
    match read(objects).await? {
        Some(now) if now.owner == note.owner => Ok(()),
        _ => Err(taken()),
    }
}

/// Whether the owner is known to have ended.
fn is_over(note: &Note) -> bool {
    let here = note.host == host();
    let own = note.pid == std::process::id();
    here && !own && !std::path::Path::new(&format!("/proc/{}", note.pid)).exists()
}

async fn keep(objects: Objects, mut note: Note, beat: Duration, lost: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(beat).await;
        match read(&objects).await {
            Ok(Some(found)) if found.owner != note.owner => {
                lost.store(true, Ordering::Relaxed);
                return;
            }
            // An object store that does not answer now has taken nothing away.
            Err(error) => tracing::debug!(%error, "a claim cannot be read"),
            Ok(_) => {
                note.beats += 1;
                let bytes = serde_json::to_vec(&note).unwrap_or_default();
                if let Err(error) = objects.put(NAME, bytes).await {
                    tracing::debug!(%error, "a claim cannot be renewed");
                }
            }
        }
    }
}

/// Process ids mean something within one boot of one kernel and one namespace.
fn host() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let names = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), names.display())
}
