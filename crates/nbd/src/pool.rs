//! The threads that do what must wait, and how much memory requests may take together.
//!
//! Whoever submits work has bounded it: a connection has so many requests open and no more.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::link::lock;

type Work = Box<dyn FnOnce() + Send>;

/// A few threads with one queue.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared::default());
        let mut pool = Pool {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let name = format!("nbd-work-{number}");
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || shared.run())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Without threads, or after the end, the work is done here and now.
    pub(crate) fn submit(&self, work: Work) {
        let mut queue = lock(&self.shared.queue);
        if queue.closed || self.threads.is_empty() {
            drop(queue);
            return work();
        }
        queue.work.push_back(work);
        if queue.idle > 0 {
            drop(queue);
            self.shared.more.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.more.notify_all();
        let own = thread::current().id();
        for thread in self.threads.drain(..) {
            // The last connection may end in one of these threads.
            if thread.thread().id() != own {
                // It has said what went wrong when it went wrong.
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(work) = queue.work.pop_front() {
                drop(queue);
                // One request that fails badly must not take the others' threads away.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                if done.is_err() {
                    tracing::error!("a request ended in a panic");
                }
                queue = lock(&self.queue);
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                queue = self
                    .more
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

/// Something of which there is so much and no more.
pub(crate) struct Budget {
    free: Mutex<u64>,
    limit: u64,
    freed: Condvar,
}

/// A part of a budget, given back when dropped.
pub(crate) struct Share {
    budget: Arc<Budget>,
    amount: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget {
            free: Mutex::new(limit),
            limit,
            freed: Condvar::new(),
        })
    }

    /// Waits until there is so much. Who wants more than there can ever be gets all there is.
    pub(crate) fn take(self: &Arc<Self>, amount: u64) -> Share {
        let amount = amount.min(self.limit);
        let mut free = lock(&self.free);
        while *free < amount {
            free = self
                .freed
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= amount;
        Share {
            budget: Arc::clone(self),
            amount,
        }
    }

    /// Waits until all of it has been given back.
    pub(crate) fn wait_whole(self: &Arc<Self>) {
        drop(self.take(self.limit));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *lock(&self.budget.free) += self.amount;
        self.budget.freed.notify_all();
    }
}
