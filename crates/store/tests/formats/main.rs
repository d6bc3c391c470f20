//! Disk images, with `qemu-img` as the judge: what it writes is read, and what is written here it
//! reads. They are beside the store because `disk` itself opens no file, and a program of their own
//! because a child process, until it has started, shares the locks of the stores that are open.

use std::fs::File;
use std::io::{self, BufWriter};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::export::{ExportError, Exported, Options, Stream, export};
use disk::image::{Format, Image, Layer, Limits, below, blank_layer};
use disk::{DiskDigest, ReadAt, WriteAt, digest_of};
use process::Command;
use store::place::MemoryPlace;
use store::{FileDisk, ImageFile, Keys, Store, StoreOptions};
use uuid::uuid;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Disks that are hard in different ways: sparse, dense, ending within a cluster.
const DISKS: &[(&str, u64, &[Data])] = &[
    ("empty", 4 * MIB, &[]),
    ("sector", 512, &[(0, 1, Kind::Noise)]),
    (
        "small",
        3 * MIB + 512,
        &[(0, 30, Kind::Mixed), (760, 9, Kind::Text)],
    ),
    (
        "sparse",
        900 * MIB,
        &[
            (0, 1, Kind::Text),
            (17, 300, Kind::Mixed),
            (5000, 16, Kind::Noise),
            (131_000, 200, Kind::Text),
            (230_399, 1, Kind::Noise),
        ],
    ),
    ("noise", 5 * MIB, &[(0, 1280, Kind::Noise)]),
    ("text", 9 * MIB + 64 * KIB, &[(3, 2200, Kind::Text)]),
];

/// First block, blocks, and what is in them.
type Data = (u32, u32, Kind);

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Noise,
    /// Both, with zero blocks between.
    Mixed,
}

/// A block that is the same for the same number, and no other block's.
fn block(number: u32, kind: Kind) -> [u8; 4096] {
    let mut state = u64::from(number) + 1;
    std::array::from_fn(|at| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        match kind {
            Kind::Text => (number as usize + at / 64) as u8,
            _ => (state >> 56) as u8,
        }
    })
}

fn make(path: &Path, size: u64, data: &[Data]) {
    let mut disk = FileDisk::create(path, size).expect("create");
    for (first, count, kind) in data {
        for index in *first..first + count {
            let content = match kind {
                Kind::Mixed if index % 5 == 0 => [0; 4096],
                Kind::Mixed if index % 5 == 1 => block(index, Kind::Noise),
                Kind::Mixed => block(index, Kind::Text),
                kind => block(index, *kind),
            };
            let start = u64::from(index) * 4096;
            let len = (size - start).min(4096) as usize;
            disk.write_at(start, &content[..len]).expect("write");
        }
    }
}

/// A disk with zeros behind it, as formats that round sizes up make it.
struct Padded<'a>(&'a dyn ReadAt, u64);

impl ReadAt for Padded<'_> {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let there = self.0.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        buf[there..].fill(0);
        self.0.read_at(offset, &mut buf[..there])
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(offset)
    }
}

fn digest(disk: &dyn ReadAt) -> DiskDigest {
    digest_of(disk).expect("read the disk").0
}

fn data_bytes(disk: &dyn ReadAt) -> u64 {
    let (mut offset, mut sum) = (0, 0);
    while let Some(data) = disk.next_data(offset).expect("look for data") {
        assert!(data.start >= offset && data.start < data.end && data.end <= disk.size());
        sum += data.end - data.start;
        offset = data.end;
    }
    sum
}

async fn qemu_img(args: &[&str]) {
    Command::new("qemu-img")
        .args(args)
        .run()
        .await
        .unwrap_or_else(|error| panic!("qemu-img {args:?}: {error}"));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

/// What `qemu-img convert` is told, what we take it for, and how much of the sparse disk may be
/// called data: the format's unit is why there is more than what was written.
const WRITTEN_BY_QEMU: &[(&[&str], Format, u64)] = &[
    (&["-O", "raw"], Format::Raw, 3 * MIB),
    (&["-O", "qcow2"], Format::Qcow2, 3 * MIB),
    (
        &["-O", "qcow2", "-o", "compat=0.10"],
        Format::Qcow2,
        3 * MIB,
    ),
    (&["-O", "qcow2", "-c"], Format::Qcow2, 3 * MIB),
    (
        &["-O", "qcow2", "-c", "-o", "compat=0.10"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &["-O", "qcow2", "-o", "cluster_size=512"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &["-O", "qcow2", "-c", "-o", "cluster_size=512"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &["-O", "qcow2", "-o", "cluster_size=2M"],
        Format::Qcow2,
        14 * MIB,
    ),
    (
        &[
            "-O",
            "qcow2",
            "-c",
            "-o",
            "cluster_size=2M,compression_type=zstd",
        ],
        Format::Qcow2,
        14 * MIB,
    ),
    (
        &["-O", "qcow2", "-o", "extended_l2=on"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &["-O", "qcow2", "-o", "extended_l2=on,cluster_size=16k"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &[
            "-O",
            "qcow2",
            "-c",
            "-o",
            "extended_l2=on,cluster_size=128k",
        ],
        Format::Qcow2,
        4 * MIB,
    ),
    (
        &["-O", "qcow2", "-o", "lazy_refcounts=on"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &["-O", "qcow2", "-o", "preallocation=metadata"],
        Format::Qcow2,
        3 * MIB,
    ),
    (
        &["-O", "vpc", "-o", "subformat=fixed,force_size=on"],
        Format::VhdFixed,
        3 * MIB,
    ),
    (
        &["-O", "vpc", "-o", "subformat=fixed"],
        Format::VhdFixed,
        3 * MIB,
    ),
    (
        &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"],
        Format::VhdDynamic,
        14 * MIB,
    ),
    (
        &["-O", "vpc", "-o", "subformat=dynamic"],
        Format::VhdDynamic,
        14 * MIB,
    ),
    (&["-O", "vhdx"], Format::Vhdx, 64 * MIB),
    (
        &["-O", "vhdx", "-o", "block_size=1M"],
        Format::Vhdx,
        14 * MIB,
    ),
    (
        &["-O", "vhdx", "-o", "subformat=fixed"],
        Format::Vhdx,
        64 * MIB,
    ),
    (
        &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        Format::Vmdk,
        3 * MIB,
    ),
    (&["-O", "vmdk"], Format::Vmdk, 3 * MIB),
    (&["-O", "vmdk", "-o", "compat6=on"], Format::Vmdk, 3 * MIB),
    (
        &["-O", "vmdk", "-o", "zeroed_grain=on"],
        Format::Vmdk,
        3 * MIB,
    ),
];

#[tokio::test]
async fn what_qemu_img_writes_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, size, data) in DISKS {
        let raw = folder.path().join(format!("{name}.raw"));
        make(&raw, *size, data);
        let original = FileDisk::open(&raw).expect("open");
        for (number, (args, format, most)) in WRITTEN_BY_QEMU.iter().enumerate() {
            let path = folder.path().join(format!("{name}-{number}"));
            let convert = [&["convert", "-f", "raw"], *args, &[text(&raw), text(&path)]].concat();
            qemu_img(&convert).await;
            let file = FileDisk::open(&path).expect("open");
            let image = Image::open(file, Limits::default())
                .unwrap_or_else(|error| panic!("{name} {args:?}: {error}"));
            assert_eq!(image.format(), *format, "{name} {args:?}");
            assert!(image.size() >= *size, "{name} {args:?}");
            let expected = digest(&Padded(&original, image.size()));
            assert_eq!(digest(&image), expected, "{name} {args:?}");
            let data = data_bytes(&image);
            assert!(*name != "sparse" || data <= *most, "{args:?}: {data} bytes");
            std::fs::remove_file(&path).expect("remove");
        }
    }
}

/// How a layer is made that machines start with: not by QEMU.
const BLANK: &str = "blank";

/// What QEMU wrote over a disk: as `qemu-io` is told, and how the layer was made. What is filled is copied from below, as
/// it is while a machine runs.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "cluster_size=64k",
        &[
            "write -P 5 1M 300k",
            "write -z 0 64k",
            "write -P 6 600M 512",
        ],
    ),
    (
        "cluster_size=4k",
        &["write -P 5 0 512", "write -z 68k 8k", "discard 64k 4k"],
    ),
    (
        "extended_l2=on",
        &["write -P 9 3k 5k", "write -z 20M 700k", "write -P 1 20M 3k"],
    ),
    ("compat=0.10", &["write -P 5 899M 1M", "write -z 0 128k"]),
    (
        "cluster_size=2M,compression_type=zstd",
        &["write -c -P 5 2M 2M"],
    ),
    ("cluster_size=64k", &[]),
    (
        BLANK,
        &[
            "fill 0 1M",
            "write -P 5 100k 300k",
            "write -P 6 512M 64k",
            "fill 511M 2M",
            "write -z 17M 1M",
        ],
    ),
];

/// Notes how much is read.
struct Counted(FileDisk, Arc<AtomicU64>);

impl ReadAt for Counted {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_at(offset, buf)
    }
}

fn written_bytes(layer: &Layer) -> u64 {
    let (mut offset, mut sum) = (0, 0);
    while let Some(written) = layer.next_written(offset).expect("look") {
        sum += written.end - written.start;
        offset = written.end;
    }
    sum
}

async fn make_layer(raw: &Path, (options, commands): (&str, &[&str]), path: &Path) {
    match options {
        BLANK => {
            let size = FileDisk::open(raw).expect("open").size();
            std::fs::write(path, blank_layer(size, text(raw))).expect("write");
        }
        _ => {
            let backing = ["create", "-f", "qcow2", "-F", "raw", "-b", text(raw)];
            qemu_img(&[&backing[..], &["-o", options, text(path)]].concat()).await;
        }
    }
    for command in commands {
        let copy_on_read = command
            .strip_prefix("fill ")
            .map(|part| format!("read {part}"));
        let told = Command::new("qemu-io").args(["-f", "qcow2"]);
        let told = match &copy_on_read {
            Some(read) => told.args(["-C", "-c", read.as_str()]),
            None => told.args(["-c", *command]),
        };
        told.arg(text(path)).run().await.expect("qemu-io");
    }
}

#[tokio::test]
async fn only_what_was_written_over_a_disk_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, size, data) = DISKS[3];
    let raw = folder.path().join("parent.raw");
    make(&raw, size, data);
    let store = Store::open_place(
        Box::new(MemoryPlace::new()),
        StoreOptions {
            keys: Keys::Off,
            ..StoreOptions::default()
        },
    );
    let store = store.expect("a store");
    let parent = store.ingest(&FileDisk::open(&raw).expect("open"));
    let parent = parent.expect("ingest").digest;
    for (number, (options, commands)) in LAYERS.iter().enumerate() {
        let path = folder.path().join(format!("layer-{number}"));
        let flat = folder.path().join(format!("flat-{number}"));
        make_layer(&raw, (*options, *commands), &path).await;
        qemu_img(&[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            text(&path),
            text(&flat),
        ])
        .await;
        let expected = digest(&FileDisk::open(&flat).expect("open"));

        let open = || FileDisk::open(&path).expect("open");
        let refused = Image::open(open(), Limits::default()).expect_err("names a file");
        assert!(refused.to_string().contains("backing file"), "{refused}");
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted(open(), Arc::clone(&read));
        let layer = Layer::open(counted, Limits::default()).expect("open the layer");
        let opened = read.load(Ordering::Relaxed);
        let taken = store
            .ingest_layer(&parent, &layer, &|_| true)
            .expect("ingest");
        assert_eq!(taken.digest, expected, "{options} {commands:?}");
        // What was filled is in the store: the patterns are new, and the blocks that they begin and end in.
        assert!(taken.new_bytes <= 8 * 4096, "{options}: {taken:?}");
        let taken_in = read.load(Ordering::Relaxed) - opened;
        let written = written_bytes(&layer);
        assert!(taken_in <= written, "{options}: {taken_in} of {written}");
        assert!(store.verify(&expected).expect("verify").is_sound());
        let parent = store.disk(&parent).expect("the parent");
        assert_eq!(digest(&layer.over(parent)), expected, "{options} as a disk");
    }
}

fn write(disk: &dyn ReadAt, format: Format, path: &Path) -> Result<Exported, ExportError> {
    let mut file = ImageFile::create(path).expect("create");
    let exported = export(disk, &options(format), &mut file, &|_| true)?;
    file.finish().expect("finish");
    Ok(exported)
}

fn options(format: Format) -> Options {
    let id = uuid!("6f1c0f3e-9f1e-4c1c-8b57-2a4b7d1e9c11");
    Options { format, id }
}

/// As `qemu-img` calls it, and whether it can check the image's own tables.
const WRITTEN_HERE: &[(Format, &str, bool)] = &[
    (Format::Raw, "raw", false),
    (Format::Qcow2, "qcow2", true),
    (Format::VhdFixed, "vpc", false),
    (Format::VhdDynamic, "vpc", false),
    (Format::Vhdx, "vhdx", true),
];

#[tokio::test]
async fn what_is_written_here_qemu_img_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, size, data) in DISKS {
        let raw = folder.path().join(format!("{name}.raw"));
        make(&raw, *size, data);
        let original = FileDisk::open(&raw).expect("open");
        for (format, theirs, has_check) in WRITTEN_HERE {
            let path: PathBuf = folder.path().join(format!("{name}.{format}.image"));
            let exported = write(&original, *format, &path)
                .unwrap_or_else(|error| panic!("{name} {format}: {error}"));
            let len = std::fs::metadata(&path).expect("look").len();
            assert_eq!(exported.image_bytes, len, "{name} {format}");
            if *has_check {
                qemu_img(&["check", "-f", theirs, text(&path)]).await;
            }
            // Sizes may differ by zeros, which this comparison accepts and the next does not.
            let (raw, image) = (text(&raw), text(&path));
            qemu_img(&["compare", "-f", "raw", "-F", theirs, raw, image]).await;
            let back = folder.path().join("back");
            qemu_img(&["convert", "-f", theirs, "-O", "raw", image, text(&back)]).await;
            let back = FileDisk::open(&back).expect("open");
            assert_eq!(back.size(), exported.disk_bytes, "{name} {format}");
            let expected = digest(&Padded(&original, exported.disk_bytes));
            assert_eq!(digest(&back), expected, "{name} {format}: theirs");

            let file = FileDisk::open(&path).expect("open");
            let image = Image::open(file, Limits::default()).expect("open the image");
            assert_eq!(image.format(), *format);
            assert_eq!(digest(&image), expected, "{name} {format}: ours");
        }
    }
}

#[test]
fn a_stream_gets_the_same_bytes_as_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, size, data) in DISKS {
        let raw = folder.path().join(format!("{name}.raw"));
        make(&raw, *size, data);
        let original = FileDisk::open(&raw).expect("open");
        for (format, ..) in WRITTEN_HERE {
            let path = folder.path().join(format!("{name}.{format}.image"));
            let streamed = folder.path().join(format!("{name}.{format}.stream"));
            write(&original, *format, &path).expect("write");
            let mut stream = Stream(BufWriter::new(File::create(&streamed).expect("create")));
            export(&original, &options(*format), &mut stream, &|_| true).expect("stream");
            drop(stream);
            let (one, other) = (FileDisk::open(&path), FileDisk::open(&streamed));
            let (one, other) = (one.expect("open"), other.expect("open"));
            assert_eq!(digest(&one), digest(&other), "{name} {format}");
            std::fs::remove_file(&streamed).expect("remove");
        }
    }
}

/// QEMU takes a layer that nothing was written to for what it is, and so do we.
#[tokio::test]
async fn a_blank_layer_is_the_disk_below() {
    let folder = tempfile::tempdir().expect("folder");
    let (raw, file, flat) = (
        folder.path().join("below.raw"),
        folder.path().join("layer"),
        folder.path().join("flat.raw"),
    );
    for size in [4096, 3 * MIB + 512, 2 << 40] {
        let mut disk = FileDisk::create(&raw, size).expect("create");
        disk.write_at(1000, b"below").expect("write");
        let layer = blank_layer(size, text(&raw));
        std::fs::write(&file, layer).expect("write");
        qemu_img(&["check", "-f", "qcow2", text(&file)]).await;
        let compared = ["compare", "-f", "qcow2", "-F", "raw"];
        if size < 1 << 40 {
            qemu_img(&[&compared[..], &[text(&file), text(&raw)]].concat()).await;
        }
        let open = || FileDisk::open(&file).expect("open");
        assert_eq!(below(open()).expect("read").as_deref(), Some(text(&raw)));
        let layer = Layer::open(open(), Limits::default()).expect("a layer");
        assert_eq!(layer.size(), size);
        assert_eq!(layer.next_written(0).expect("look"), None);
        std::fs::remove_file(&raw).expect("remove");
    }
    std::fs::write(&raw, vec![7; 4096]).expect("write");
    std::fs::write(&file, blank_layer(4096, text(&raw))).expect("write");
    let convert = ["convert", "-f", "qcow2", "-O", "qcow2"];
    qemu_img(&[&convert[..], &[text(&file), text(&flat)]].concat()).await;
    let flat = FileDisk::open(&flat).expect("open");
    assert_eq!(below(flat).expect("read"), None);
    let no_image = FileDisk::open(&raw).expect("open");
    assert!(below(no_image).is_err());
}
