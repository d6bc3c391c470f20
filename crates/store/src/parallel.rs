//! One piece of work for each item, on a few threads.
//!
//! Order of results is the order of items. The first error stops the rest.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Runs `work` on every item; `state` makes what one thread needs, such as buffers.
pub(crate) fn for_each<T: Send, S, E: Send>(
    threads: usize,
    items: &mut [T],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &mut T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        let mut state = state();
        return items.iter_mut().try_for_each(|item| work(&mut state, item));
    }
    let queue = Mutex::new(items.iter_mut());
    let stop = AtomicBool::new(false);
    let run = || -> Result<(), E> {
        let mut state = state();
        while !stop.load(Ordering::Relaxed) {
            let next = queue
                .lock()
                .unwrap_or_else(|poison| poison.into_inner())
                .next();
            let Some(item) = next else { break };
            work(&mut state, item).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let own = run();
        helpers.into_iter().fold(own, |result, helper| {
            let helped = helper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(helped)
        })
    })
}
