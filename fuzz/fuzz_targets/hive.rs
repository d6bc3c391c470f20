//! Registry hives, with right heads.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| windisk::fuzzing::hive(data));
