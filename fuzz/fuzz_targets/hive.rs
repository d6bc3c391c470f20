//! Cells of registry hives, behind a right head.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| windisk::fuzzing::cells(data));
