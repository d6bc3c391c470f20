//! Served disks: many readers and one read of the store, writes on top, boot traces.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use disk::{BLOCK_SIZE, DiskDigest, MemDisk, ReadAt, WriteAt};
use nbd::{Client, Export, ExportMap, Listen, Options, Server};
use proptest::prelude::*;
use store::place::MemoryPlace;
use store::{
    BranchRef, FrameSource, Manifest, Overlay, Section, SectionRef, ServedDisk, Serving, Store,
    StoreError, TraceRecorder, UsedFrame,
};

use crate::{disk_of, memory_store, store_in, whole};

/// A store that counts how often a frame is read from it.
struct Counted {
    store: Store,
    frames: AtomicU64,
}

impl FrameSource for Counted {
    fn manifest(&self, digest: &DiskDigest) -> Result<Manifest, StoreError> {
        FrameSource::manifest(&self.store, digest)
    }

    fn branch(
        &self,
        manifest: &Manifest,
        branch: &BranchRef,
    ) -> Result<Vec<SectionRef>, StoreError> {
        FrameSource::branch(&self.store, manifest, branch)
    }

    fn sections(
        &self,
        manifest: &Manifest,
        wanted: &[SectionRef],
    ) -> Result<Vec<Section>, StoreError> {
        FrameSource::sections(&self.store, manifest, wanted)
    }

    fn read_frame(&self, frame: &UsedFrame, into: &mut Vec<u8>) -> Result<u64, StoreError> {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.store.read_frame(frame, into)
    }

    fn read_frames(&self, frames: &[UsedFrame], each: &mut dyn FnMut(usize, u64, Vec<u8>)) {
        self.store.read_frames(frames, &mut |at, stored, raw| {
            self.frames.fetch_add(1, Ordering::Relaxed);
            each(at, stored, raw);
        });
    }

    fn trace(&self, digest: &DiskDigest) -> Option<store::Trace> {
        self.store.trace(digest)
    }
}

fn counted(store: &Store) -> (Arc<Counted>, Arc<dyn FrameSource>) {
    let counted = Arc::new(Counted {
        store: store.clone(),
        frames: AtomicU64::new(0),
    });
    let source = Arc::clone(&counted) as Arc<dyn FrameSource>;
    (counted, source)
}

/// No block twice, every third a hole.
fn image(blocks: u32) -> MemDisk {
    let seeds: Vec<u32> = (1..=blocks)
        .map(|n| if n % 3 == 0 { 0 } else { n })
        .collect();
    disk_of(&seeds, 0)
}

/// What a boot might read: here and there, some of it twice, 4 KiB to 64 KiB at a time.
fn boot(size: u64) -> Vec<(u64, u32)> {
    let mut state = 1u64;
    let mut reads = Vec::new();
    for _ in 0..400 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        let len = 4096 << (state >> 60 & 3);
        let offset = (state >> 13) % (size - len) / 512 * 512;
        reads.push((offset, len as u32));
    }
    reads
}

fn listen(folder: &Path, disk: Arc<dyn Export>) -> Server {
    let exports = Arc::new(ExportMap::new());
    exports.put("disk", disk);
    let listen = [Listen::Unix(folder.join("nbd.sock"))];
    Server::start(&listen, exports, Options::default()).expect("serve")
}

#[test]
fn twenty_machines_that_start_at_once_read_the_store_once() {
    const MACHINES: usize = 20;
    let store = memory_store();
    let image = image(3000);
    let digest = store.ingest(&image).expect("ingest").digest;
    let (counted, source) = counted(&store);
    let serving = Serving::new().expect("start");
    let disk = Arc::new(serving.disk(&source, &digest).expect("open"));
    let folder = tempfile::tempdir().expect("folder");
    let _server = listen(folder.path(), disk);
    let reads = boot(image.size());
    thread::scope(|scope| {
        for machine in 0..MACHINES {
            let (folder, reads, image) = (folder.path(), &reads, &image);
            scope.spawn(move || {
                let socket = folder.join("nbd.sock");
                let mut client = Client::connect_unix(&socket, "disk").expect("connect");
                // Not all in one step: some are ahead, as machines are.
                for (offset, len) in reads.iter().cycle().skip(machine * 7).take(reads.len()) {
                    let got = client.read(*offset, *len).expect("read");
                    let mut wanted = vec![0; *len as usize];
                    image.read_at(*offset, &mut wanted).expect("read");
                    assert!(got == wanted);
                }
            });
        }
    });
    serving.wait_ahead();
    let stats = serving.stats();
    let loaded = counted.frames.load(Ordering::Relaxed);
    assert_eq!(loaded, stats.asked_frames + stats.ahead_frames);
    let disk = store.disk(&digest).expect("disk");
    let blocks = image.size().div_ceil(BLOCK_SIZE as u64) as u32;
    let extents = disk.extents(0..blocks).expect("extents");
    let distinct: BTreeSet<_> = extents.iter().map(|extent| extent.frame.id()).collect();
    let distinct = distinct.len() as u64;
    assert!(
        loaded <= distinct,
        "{loaded} of {distinct}: a frame was read twice"
    );
    assert_eq!(stats.evicted_frames, 0);
}

#[test]
fn a_boot_that_was_seen_before_finds_its_blocks_loaded() {
    let place = MemoryPlace::new();
    let store = store_in(place.clone());
    let image = image(3000);
    let digest = store.ingest(&image).expect("ingest").digest;
    let source: Arc<dyn FrameSource> = Arc::new(store.clone());
    let read = |disk: &ServedDisk| {
        for (offset, len) in boot(image.size()) {
            let mut buf = vec![0; len as usize];
            disk.read_at(offset, &mut buf).expect("read");
        }
    };
    let first = Serving::new()
        .expect("start")
        .disk(&source, &digest)
        .expect("open");
    first.record();
    first.attached();
    read(&first);
    store.put_trace(&digest, &first.recorded()).expect("keep");
    assert_eq!(store.trace(&digest), Some(first.recorded()));

    let serving = Serving::new().expect("start");
    let again = serving.disk(&source, &digest).expect("open");
    again.attached();
    serving.wait_ahead();
    read(&again);
    let stats = serving.stats();
    assert_eq!(
        stats.asked_frames, 0,
        "all was there before it was asked for"
    );
    assert_eq!(
        stats.ahead_frames, stats.ahead_used_frames,
        "and nothing else"
    );

    assert!(store.delete(&digest).expect("delete"));
    assert_eq!(store.trace(&digest), None);
    assert!(store.put_trace(&digest, &first.recorded()).is_err());
}

#[test]
fn a_trace_that_is_wrong_is_no_harm() {
    let store = memory_store();
    let image = image(100);
    let digest = store.ingest(&image).expect("ingest").digest;
    let recorder = TraceRecorder::new();
    // Beyond the disk, and all of it.
    recorder.note(1 << 40, 4096);
    recorder.note(0, 1 << 24);
    store.put_trace(&digest, &recorder.trace()).expect("keep");
    let source: Arc<dyn FrameSource> = Arc::new(store);
    let serving = Serving::with_cache(0).expect("start");
    let disk = serving.disk(&source, &digest).expect("open");
    disk.attached();
    assert!(whole(&disk) == image.as_bytes());
}

#[test]
fn who_reads_in_order_is_read_ahead_of() {
    let store = memory_store();
    let image = image(6000);
    let digest = store.ingest(&image).expect("ingest").digest;
    let source: Arc<dyn FrameSource> = Arc::new(store);
    let serving = Serving::new().expect("start");
    let disk = serving.disk(&source, &digest).expect("open");
    let mut buf = vec![0; 64 << 10];
    for offset in (0..image.size() - buf.len() as u64).step_by(64 << 10) {
        disk.read_at(offset, &mut buf).expect("read");
        serving.wait_ahead();
    }
    let stats = serving.stats();
    assert!(
        stats.ahead_used_frames > 5 * stats.asked_frames,
        "{stats:?}"
    );
}

fn over(folder: &Path, store: &Store, digest: &DiskDigest, size: u64) -> Overlay {
    let source: Arc<dyn FrameSource> = Arc::new(store.clone());
    let parent = Serving::with_cache(0).expect("start").disk(&source, digest);
    let parent = Arc::new(parent.expect("open"));
    Overlay::create(&folder.join("disk"), *digest, parent, size).expect("create")
}

/// What is done to a disk: offset, length, and the byte it is filled with; 0 makes a hole.
fn edits() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    let edit = (
        0u64..450_000,
        1u64..70_000,
        prop_oneof![Just(0u8), any::<u8>()],
    );
    prop::collection::vec(edit, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Against a disk in memory; reopened it is the same, and so is what is taken in from it.
    #[test]
    fn an_overlay_is_a_disk(edits in edits(), larger in 0u64..9000) {
        let folder = tempfile::tempdir().expect("folder");
        let store = memory_store();
        let image = disk_of(&(1..120).map(|n| n % 5).collect::<Vec<_>>(), 700);
        let digest = store.ingest(&image).expect("ingest").digest;
        let size = image.size() + if larger > 4096 { larger } else { 0 };
        let overlay = over(folder.path(), &store, &digest, size);
        let mut bytes = image.into_bytes();
        bytes.resize(size as usize, 0);
        let mut model = MemDisk::from(bytes);
        for (offset, len, byte) in edits {
            let offset = offset.min(size - 1);
            let len = len.min(size - offset);
            if byte == 0 {
                overlay.zero(offset, len).expect("zero");
            } else {
                overlay.write(offset, &vec![byte; len as usize]).expect("write");
            }
            model.write_at(offset, &vec![byte; len as usize]).expect("write");
        }
        prop_assert!(whole(&overlay) == model.as_bytes());
        let mut sparse = vec![1; size as usize];
        disk::read_sparse(&overlay, 0, &mut sparse).expect("read");
        prop_assert!(sparse == model.as_bytes());
        prop_assert!(overlay.write(size - 1, &[1, 2]).is_err());
        let child = store.ingest_overlay(&overlay, &|_| true).expect("ingest");
        prop_assert_eq!(child.digest, disk::digest_of(&model).expect("digest").0);
        let (changed, parent) = (overlay.changed(), Arc::new(store.disk(&digest).expect("open")));
        overlay.flush().expect("flush");
        drop(overlay);
        let again = Overlay::open(&folder.path().join("disk"), Arc::new(Plain(parent)));
        let again = again.expect("open");
        prop_assert_eq!(again.changed(), changed);
        prop_assert_eq!(again.base(), &digest);
        prop_assert!(whole(&again) == model.as_bytes());
    }
}

/// Any disk, to be read only.
struct Plain<D>(D);

impl<D: ReadAt> ReadAt for Plain<D> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)
    }
}

impl<D: ReadAt> Export for Plain<D> {}

#[test]
fn what_was_not_flushed_may_be_gone_and_nothing_else() {
    let folder = tempfile::tempdir().expect("folder");
    let store = memory_store();
    let image = image(100);
    let digest = store.ingest(&image).expect("ingest").digest;
    let overlay = over(folder.path(), &store, &digest, image.size());
    overlay.write(5000, &[9; 100]).expect("write");
    overlay.flush().expect("flush");
    overlay.write(50_000, &[8; 100]).expect("write");
    // What a loss of power leaves at worst: the files as they were when they were flushed last.
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(at("disk"), at("copy")).expect("copy");
    std::fs::copy(at("disk.map"), at("copy.map")).expect("copy");
    let parent = Arc::new(Plain(image.clone()));
    let again = Overlay::open(&at("copy"), parent.clone()).expect("open");
    let mut expected = image.clone();
    expected.write_at(5000, &[9; 100]).expect("write");
    assert!(whole(&again) == expected.as_bytes());
    let changed: Vec<u64> = again.changed().into_iter().flatten().collect();
    assert_eq!(changed, [1]);

    // Files that are not what they should be.
    let refused = |change: &dyn Fn()| {
        change();
        assert!(Overlay::open(&at("copy"), parent.clone()).is_err());
        std::fs::copy(at("disk"), at("copy")).expect("copy");
        std::fs::copy(at("disk.map"), at("copy.map")).expect("copy");
    };
    refused(&|| std::fs::write(at("copy"), "short").expect("write"));
    refused(&|| std::fs::write(at("copy.map"), "short").expect("write"));
    refused(&|| std::fs::remove_file(at("copy.map")).expect("remove"));
    refused(&|| {
        let mut bytes = std::fs::read(at("copy.map")).expect("read");
        bytes[20] ^= 1;
        std::fs::write(at("copy.map"), bytes).expect("write");
    });
    assert!(Overlay::create(&at("copy"), digest, parent, image.size()).is_err());
}

#[test]
fn many_writers_lose_nothing() {
    const WRITERS: u64 = 8;
    let folder = tempfile::tempdir().expect("folder");
    let store = memory_store();
    let image = image(64);
    let digest = store.ingest(&image).expect("ingest").digest;
    let overlay = over(folder.path(), &store, &digest, image.size());
    let _server = {
        let overlay = Arc::new(overlay);
        let server = listen(folder.path(), overlay.clone());
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let socket = folder.path().join("nbd.sock");
                scope.spawn(move || {
                    let mut client = Client::connect_unix(&socket, "disk").expect("connect");
                    // Each has its part of every block.
                    for block in 0..64 {
                        let offset = block * BLOCK_SIZE as u64 + writer * 512;
                        client
                            .write(offset, &[writer as u8 + 1; 512])
                            .expect("write");
                    }
                    client.flush().expect("flush");
                });
            }
        });
        let bytes = whole(&*overlay);
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(usize::from(*byte), at / 512 % 8 + 1);
        }
        server
    };
}
