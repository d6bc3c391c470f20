//! Reading before anybody asks: a boot's trace, and what follows where a client reads in order.
//!
//! It is never waited for and never an error: what it does not load is loaded when it is asked
//! for.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::frame::{FRAME_BLOCKS, FRAME_BYTES};
use crate::serve::Trace;
use crate::view::StoredDisk;

/// Work that waits; more is forgotten.
const MAX_QUEUED: usize = 256;
/// Blocks that are loaded in one go: few enough that who waits for one does not wait for long.
const STEP_BLOCKS: u64 = 16 * FRAME_BLOCKS as u64;
/// Which part of the cache one trace may fill.
const TRACE_SHARE: u64 = 2;

/// The threads, and what they are to do.
pub(super) struct Ahead(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    busy: usize,
    closed: bool,
}

struct Work {
    disk: Arc<StoredDisk>,
    blocks: Vec<Range<u64>>,
}

impl Ahead {
    pub(super) fn start(threads: usize) -> io::Result<Ahead> {
        let shared = Arc::new(Shared::default());
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let name = format!("ahead-{number}");
            thread::Builder::new()
                .name(name)
                .spawn(move || shared.run())?;
        }
        Ok(Ahead(shared))
    }

    /// What a boot will read, in its order, as far as the cache has room.
    pub(super) fn follow(&self, disk: &Arc<StoredDisk>, trace: &Trace) {
        let mut room = disk.cache().capacity() / TRACE_SHARE / FRAME_BYTES as u64;
        let mut step = Vec::new();
        let mut blocks = 0;
        for run in trace.runs() {
            step.push(run.clone());
            let len = run.end - run.start;
            blocks += len;
            room = room.saturating_sub(len.div_ceil(FRAME_BLOCKS as u64));
            if blocks >= STEP_BLOCKS || room == 0 {
                self.submit(disk, std::mem::take(&mut step));
                blocks = 0;
            }
            if room == 0 {
                return;
            }
        }
        self.submit(disk, step);
    }

    pub(super) fn submit(&self, disk: &Arc<StoredDisk>, blocks: Vec<Range<u64>>) {
        let mut queue = self.0.queue();
        if queue.work.len() < MAX_QUEUED && !blocks.is_empty() {
            let disk = Arc::clone(disk);
            queue.work.push_back(Work { disk, blocks });
            drop(queue);
            self.0.changed.notify_all();
        }
    }

    pub(super) fn wait(&self) {
        let mut queue = self.0.queue();
        while queue.busy > 0 || !queue.work.is_empty() {
            queue = self.0.wait(queue);
        }
    }
}

impl Drop for Ahead {
    /// The threads end by themselves; nobody needs to wait for a read that nobody needs.
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        queue.work.clear();
        drop(queue);
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = self.queue();
        while !queue.closed {
            let Some(work) = queue.work.pop_front() else {
                queue = self.wait(queue);
                continue;
            };
            queue.busy += 1;
            drop(queue);
            work.disk.load_ahead(work.blocks);
            drop(work.disk);
            queue = self.queue();
            queue.busy -= 1;
            if queue.busy == 0 {
                self.changed.notify_all();
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner)
    }
}
