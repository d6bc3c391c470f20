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
/// Which part of the cache one trace may fill, in quarters.
const TRACE_QUARTERS: u64 = 3;

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
    /// In the order in which they are wanted.
    blocks: VecDeque<Range<u64>>,
    /// Frames that may be loaded.
    room: u64,
}

impl Work {
    /// What is done in one go.
    fn step(&mut self) -> Vec<Range<u64>> {
        let (mut step, mut blocks) = (Vec::new(), 0);
        while blocks < STEP_BLOCKS
            && let Some(run) = self.blocks.pop_front()
        {
            let end = run.end.min(run.start + (STEP_BLOCKS - blocks));
            if end < run.end {
                self.blocks.push_front(end..run.end);
            }
            blocks += end - run.start;
            step.push(run.start..end);
        }
        step
    }
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
        let room = disk.cache().capacity() / 4 * TRACE_QUARTERS / FRAME_BYTES as u64;
        self.submit(disk, trace.runs().iter().cloned().collect(), room);
    }

    /// As many blocks as there are, but no more frames than `room`.
    pub(super) fn submit(&self, disk: &Arc<StoredDisk>, blocks: VecDeque<Range<u64>>, room: u64) {
        let mut queue = self.0.queue();
        if queue.work.len() < MAX_QUEUED && !blocks.is_empty() {
            queue.work.push_back(Work {
                disk: Arc::clone(disk),
                blocks,
                room,
            });
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
            let Some(mut work) = queue.work.pop_front() else {
                queue = self.wait(queue);
                continue;
            };
            queue.busy += 1;
            drop(queue);
            let step = work.step();
            let loaded = work.disk.load_ahead(step);
            work.room = work.room.saturating_sub(loaded);
            let goes_on = work.room > 0 && !work.blocks.is_empty();
            let rest = goes_on.then_some(work);
            queue = self.queue();
            // Whoever reads in order comes in between.
            if !queue.closed {
                queue.work.extend(rest);
            }
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
