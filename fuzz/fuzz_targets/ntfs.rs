//! Records and index blocks of an NTFS volume, and the hive that is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| windisk::fuzzing::volume_of_parts(data));
