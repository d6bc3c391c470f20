//! VHD, fixed and dynamic, with right checksums.
#![no_main]

use disk::image::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    disk::fuzzing::image(Format::VhdDynamic, data);
    disk::fuzzing::image(Format::VhdFixed, data);
});
