//! What a Windows guest says on its second serial port.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| machine::fuzzing::agent(data));
