//! Packs, with and without the checksum of their footer, and the small files of a store.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    store::fuzzing::pack(data);
    store::fuzzing::headers(data);
});
