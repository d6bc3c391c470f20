//! Manifests: roots, their tables behind the seal, and the tables of bundles.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    store::fuzzing::manifest(data);
    let Some((size, table)) = data.split_first_chunk::<8>() else {
        return;
    };
    let size = u64::from_le_bytes(*size);
    store::fuzzing::table(table, size);
    store::fuzzing::bundle(table, size as u32, size);
});
