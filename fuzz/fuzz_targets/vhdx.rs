//! VHDX, with right checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| disk::fuzzing::vhdx(data));
