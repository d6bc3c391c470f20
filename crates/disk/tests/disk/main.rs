//! What the crate promises to others, through its public face only.

mod cow;
mod digest;
mod image;
mod layout;
mod parts;

use disk::{BLOCK_SIZE, MemDisk, WriteAt};
use proptest::prelude::*;

/// One write: where, how much, and of which byte.
type Write = (usize, usize, u8);

/// Writes that may touch each other and cross blocks and chunks; zeros are frequent.
fn writes(size: usize) -> impl Strategy<Value = Vec<Write>> {
    let byte = prop_oneof![Just(0u8), any::<u8>()];
    prop::collection::vec((0..size, 1..3 * BLOCK_SIZE, byte), 0..12)
}

fn apply(disk: &mut dyn WriteAt, writes: &[Write]) {
    for (offset, len, byte) in writes {
        let len = (*len).min(disk.size() as usize - offset);
        disk.write_at(*offset as u64, &vec![*byte; len])
            .expect("write within the disk");
    }
}

fn written(size: usize, writes: &[Write]) -> MemDisk {
    let mut disk = MemDisk::new(size);
    apply(&mut disk, writes);
    disk
}
