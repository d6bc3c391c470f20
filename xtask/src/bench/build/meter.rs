//! What a process and all that it starts use: processor seconds, and the largest of them in memory. Machines that boot
//! an image are left out.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

/// The kernel counts in hundredths.
const TICKS_PER_SECOND: f64 = 100.0;
/// Between two looks; a process that lives shorter may not be seen.
const PERIOD: Duration = Duration::from_millis(25);
const MACHINE: &str = "qemu-system";

/// Seconds, and bytes of the largest process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub cpu: f64,
    pub wall: f64,
    pub memory: u64,
}

/// Looks at a process until it is stopped.
pub struct Meter {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub struct Seen {
    /// Processor seconds of the process and of all that has ended below it, by time.
    cpu: Vec<(Timestamp, f64)>,
    /// Bytes of the largest process below it.
    pub memory: u64,
}

impl Meter {
    pub fn start(pid: u32) -> Meter {
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (seen, stop): (Arc<Mutex<Seen>>, _) = (Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let now = (Timestamp::now(), cpu_seconds(pid), largest_below(pid));
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Ok(cpu) = now.1 {
                        seen.cpu.push((now.0, cpu));
                    }
                    seen.memory = seen.memory.max(now.2);
                    drop(seen);
                    std::thread::park_timeout(PERIOD);
                }
            })
        };
        Meter { seen, stop, thread }
    }

    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        // A thread that panicked has told so.
        let _ = self.thread.join();
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Seen {
    /// Processor seconds between two times.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> f64 {
        let at = |time: Timestamp| {
            let later = self.cpu.iter().find(|(seen, _)| *seen >= time);
            later.or(self.cpu.last()).map_or(0.0, |(_, cpu)| *cpu)
        };
        at(to) - at(from)
    }
}

/// Of a process and of all its children that have ended.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let after_name = stat.rsplit_once(')').context("an odd stat file")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let mut ticks = 0.0;
    for field in fields.get(11..15).context("a short stat file")? {
        ticks += field.parse::<f64>().context("an odd stat file")?;
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// The most memory, in bytes, that any process below this one, itself included, has had.
fn largest_below(root: u32) -> u64 {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(parent) = field(pid, "PPid:") {
            children.entry(parent as u32).or_default().push(pid);
        }
    }
    let (mut pending, mut most) = (vec![root], 0);
    while let Some(pid) = pending.pop() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with(MACHINE) {
            continue;
        }
        most = most.max(field(pid, "VmHWM:").unwrap_or_default() << 10);
        pending.extend(children.remove(&pid).unwrap_or_default());
    }
    most
}

fn field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
