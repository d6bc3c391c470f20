//! Random ingest, replication, deletion, sweeps, crashes, damage and loss of zones, held against a
//! model.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Seeds of one run of the tests; each takes some milliseconds.
const SEEDS: u64 = 300;
const THREADS: u64 = 2;
/// One seed alone, to look at a failure.
const ONE: &str = "BULLION_SIM_SEED";

#[test]
fn regions_keep_what_they_acknowledged() {
    if let Some(seed) = std::env::var(ONE).ok().and_then(|seed| seed.parse().ok()) {
        sim::run(seed);
        return;
    }
    // Other seeds each time, all of them told where one fails.
    let first = rand::random::<u32>();
    let totals: [AtomicU64; 4] = Default::default();
    thread::scope(|scope| {
        for part in 0..THREADS {
            let totals = &totals;
            scope.spawn(move || {
                for seed in (part..SEEDS).step_by(THREADS as usize) {
                    let report = sim::run(u64::from(first) + seed);
                    let seen = [
                        report.reads,
                        report.crashes,
                        report.damages,
                        report.collected,
                    ];
                    for (total, seen) in totals.iter().zip(seen) {
                        total.fetch_add(seen, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seen = totals.map(AtomicU64::into_inner);
    assert!(
        seen.iter().all(|seen| *seen > SEEDS / 10),
        "too little happened: reads, crashes, damages, collected packs are {seen:?}"
    );
}
