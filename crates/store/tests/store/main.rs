//! What a store promises, through its public face: disks come back as they went in, or there is
//! an error.

mod bundle;
mod checkout;
mod collect;
mod corruption;
mod faults;
mod index;
mod ingest;
mod keys;
mod places;
mod region;
mod replicate;
mod s3;
mod serve;

use std::num::NonZero;
use std::sync::Arc;

use disk::{BLOCK_SIZE, Changes, MemDisk, ReadAt, WriteAt};
use proptest::prelude::*;
use store::keys::FakeKeys;
use store::place::{MemoryPlace, Place};
use store::{Domain, Keys, Store, StoreOptions};

/// Encrypted, in one domain for all stores of a test.
fn options() -> StoreOptions {
    // Few cached frames, so that tests evict some.
    StoreOptions {
        threads: NonZero::new(2).expect("two"),
        cached_frames: 3,
        keys: Keys::Service(Arc::new(FakeKeys::default())),
        domain: Some(Domain::from_secret([42; 32])),
        ..StoreOptions::default()
    }
}

/// A domain of the store's own.
fn stranger() -> Store {
    let options = StoreOptions {
        domain: None,
        ..options()
    };
    Store::open_place(Box::new(MemoryPlace::new()), options).expect("open a store")
}

fn store_in(place: impl Place + 'static) -> Store {
    Store::open_place(Box::new(place), options()).expect("open a store")
}

fn memory_store() -> Store {
    store_in(MemoryPlace::new())
}

/// A block whose content depends on `seed` only; seed 0 is the zero block. Some compress, some
/// do not.
fn block(seed: u32) -> [u8; BLOCK_SIZE] {
    let mut bytes = [0; BLOCK_SIZE];
    if seed == 0 {
        return bytes;
    }
    let mut state = u64::from(seed);
    for (at, byte) in bytes.iter_mut().enumerate() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = if seed.is_multiple_of(4) {
            (state >> 56) as u8
        } else {
            (seed as usize + at / 64) as u8
        };
    }
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// A disk of these blocks, and `tail` bytes of one more.
fn disk_of(seeds: &[u32], tail: usize) -> MemDisk {
    let mut bytes: Vec<u8> = seeds.iter().flat_map(|seed| block(*seed)).collect();
    bytes.extend_from_slice(&block(77)[..tail]);
    MemDisk::from(bytes)
}

fn whole(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read_at(0, &mut bytes).expect("read all");
    bytes
}

/// Blocks with many repeats and zeros, over one or two chunks.
fn seeds() -> impl Strategy<Value = Vec<u32>> {
    let seed = prop_oneof![2 => Just(0u32), 3 => 1..20u32, 5 => 20..4000u32];
    prop::collection::vec(seed, 0..400)
}

fn changes_of(edits: &[(u64, u32)]) -> Changes {
    let mut changes = Changes::new();
    for (index, seed) in edits {
        changes.set(*index, &block(*seed));
    }
    changes
}

fn changed(parent: &MemDisk, edits: &[(u64, u32)]) -> MemDisk {
    let mut disk = parent.clone();
    for (index, seed) in edits {
        disk.write_at(index * BLOCK_SIZE as u64, &block(*seed))
            .expect("write");
    }
    disk
}
