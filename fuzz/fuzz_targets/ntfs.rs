//! NTFS volumes, and the hive that is in them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| windisk::fuzzing::volume(data));
