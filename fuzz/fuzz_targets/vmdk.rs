//! VMDK in one file.
#![no_main]

use disk::image::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| disk::fuzzing::image(Format::Vmdk, data));
