//! A client of the server of disks: its negotiation, and requests after one.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    nbd::fuzzing::connection(data);
    nbd::fuzzing::requests(data);
});
