//! Domains of tenants with keys of their own, held against a model.

/// Seeds of one run of the tests; each takes some ten milliseconds.
const SEEDS: u64 = 60;
/// One seed alone, to look at a failure.
const ONE: &str = "BULLION_SIM_SEED";

#[test]
fn no_key_meets_two_plaintexts_and_nothing_live_is_lost() {
    if let Some(seed) = std::env::var(ONE).ok().and_then(|seed| seed.parse().ok()) {
        sim::run_domains(seed);
        return;
    }
    // Other seeds each time, all of them told where one fails.
    let first = u64::from(rand::random::<u32>());
    let mut seen = [0; 7];
    for seed in first..first + SEEDS {
        let report = sim::run_domains(seed);
        let of_run = [
            report.reads,
            report.locked,
            report.rotations,
            report.erasures,
            report.bundles,
            report.collected,
            report.seals,
        ];
        for (total, seen) in seen.iter_mut().zip(of_run) {
            *total += seen;
        }
    }
    assert!(
        seen.iter().all(|seen| *seen > SEEDS / 10),
        "too little happened: reads, locked reads, rotations, erasures, bundles, collected packs, seals are {seen:?}"
    );
}
