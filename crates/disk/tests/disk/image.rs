//! Images that are wrong on purpose. What a sound image must look like is shown beside the store,
//! where `qemu-img` can be asked.

use disk::export::{Options, export};
use disk::image::{Format, Image, ImageError, Limits, detect};
use disk::{DiskDigest, MemDisk, ReadAt, WriteAt, digest_of};
use uuid::uuid;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const DISK_BYTES: usize = 5 * MIB;

/// Text that compresses, noise that does not, and holes.
fn disk() -> MemDisk {
    let mut disk = MemDisk::new(DISK_BYTES);
    let mut state = 1u64;
    let noise: Vec<u8> = (0..200 * KIB)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    disk.write_at(MIB as u64 + 4096, &noise).expect("write");
    disk.write_at(0, &[7; 9000]).expect("write");
    disk.write_at((DISK_BYTES - 512) as u64, &[9; 512])
        .expect("write");
    disk
}

fn written(format: Format) -> Vec<u8> {
    let id = uuid!("00112233-4455-6677-8899-aabbccddeeff");
    let mut image = Vec::new();
    let options = Options { format, id };
    export(&disk(), &options, &mut image, &|_| true).expect("export");
    image
}

fn digest(disk: &dyn ReadAt) -> std::io::Result<DiskDigest> {
    digest_of(disk).map(|(digest, _)| digest)
}

/// Opens and reads all of it.
fn read(image: Vec<u8>, limits: Limits) -> Result<DiskDigest, String> {
    let image = Image::open(image, limits).map_err(|error| error.to_string())?;
    digest(&image).map_err(|error| error.to_string())
}

const OURS: [Format; 4] = [
    Format::Qcow2,
    Format::VhdFixed,
    Format::VhdDynamic,
    Format::Vhdx,
];

#[test]
fn content_tells_the_format() {
    for format in OURS {
        assert_eq!(detect(&written(format)).expect("detect"), format);
    }
    let raw = written(Format::Raw);
    assert_eq!(detect(&raw).expect("detect"), Format::Raw);
    assert_eq!(detect(&Vec::new()).expect("detect"), Format::Raw);
    assert_eq!(detect(&b"QFI".to_vec()).expect("detect"), Format::Raw);
}

#[test]
fn what_is_no_disk_is_not_taken_for_one() {
    let starts: &[(&[u8], &str)] = &[
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"# Disk DescriptorFile\nversion=1\n", "names other files"),
        (b"COWD", "ESX"),
    ];
    for (start, expected) in starts {
        let mut file = start.to_vec();
        file.resize(4096, 0);
        let error = read(file, Limits::default()).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_shortened_image_is_an_error_or_the_whole_disk() {
    let expected = digest(&disk()).expect("digest");
    for format in OURS {
        let whole = written(format);
        assert_eq!(read(whole.clone(), Limits::default()), Ok(expected));
        for part in 1..64 {
            let cut = whole[..whole.len() * part / 64].to_vec();
            let opened = Image::open_as(cut, format, Limits::default());
            if let Ok(found) = opened
                .map_err(std::io::Error::from)
                .and_then(|i| digest(&i))
            {
                assert_eq!(found, expected, "{format} cut to {part}/64");
            }
        }
    }
}

#[test]
fn a_limit_is_asked_before_anything_is_made() {
    for format in OURS {
        let limits = Limits {
            max_bytes: (DISK_BYTES - 1) as u64,
        };
        let opened = Image::open(written(format), limits);
        assert!(
            matches!(opened, Err(ImageError::TooLarge { size, .. }) if size == DISK_BYTES as u64),
            "{format}"
        );
    }
}

/// A change to an image, and what is then said of it.
type Case = (&'static [(usize, &'static [u8])], &'static str);

fn check(format: Format, cases: &[Case], repair: fn(&mut [u8])) {
    for (changes, expected) in cases {
        let mut image = written(format);
        for (at, bytes) in *changes {
            image[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        repair(&mut image);
        let opened = Image::open_as(image, format, Limits::default());
        let read = opened
            .map_err(std::io::Error::from)
            .and_then(|i| digest(&i));
        let error = read.expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

const HUGE: &[u8] = &[0xff; 8];

/// As it is written here: counts from 64 KiB, blocks from 128 KiB, first level from 192 KiB, one
/// second-level table at 256 KiB, data from 320 KiB.
const QCOW2: &[Case] = &[
    (&[(4, &[0, 0, 0, 4])], "unknown version"),
    (&[(8, &[0, 0, 0, 0, 0, 0, 2, 0])], "backing file"),
    (&[(20, &[0, 0, 0, 8])], "clusters have an impossible size"),
    (&[(20, &[0, 0, 0, 63])], "clusters have an impossible size"),
    (&[(24, HUGE)], "over the limit"),
    (&[(24, &[0, 0, 1, 0, 0, 0, 0, 0])], "first-level table"),
    (&[(32, &[0, 0, 0, 1])], "encrypted"),
    (&[(32, &[0, 0, 0, 2])], "encrypted"),
    (&[(36, &[0xff; 4])], "first-level table"),
    (&[(36, &[0; 4])], "first-level table"),
    (&[(40, HUGE)], "outside the file"),
    (&[(79, &[0x0a])], "corrupt"),
    (&[(79, &[0x0c])], "another file"),
    (&[(79, &[0x28])], "not known"),
    (&[(100, HUGE)], "header"),
    (&[(104, &[2])], "compressed in a way"),
    (&[(79, &[0])], "compressed in a way"),
    // The first level points between clusters.
    (
        &[(192 * KIB, &[0, 0, 0, 0, 0, 4, 2, 0])],
        "between two clusters",
    ),
    // An uncompressed cluster far outside, and one at an odd place.
    (
        &[(256 * KIB, &[0, 0x7f, 0, 0, 0, 0, 0, 0])],
        "beyond the end",
    ),
    (
        &[(256 * KIB, &[0, 0, 0, 0, 0, 5, 2, 0])],
        "between two clusters",
    ),
    // A compressed one outside, and one where no zstd is.
    (
        &[(256 * KIB, &[0x40, 0x3f, 0, 0, 0, 0, 0, 0])],
        "beyond the end",
    ),
    (
        &[(256 * KIB, &[0x40, 0, 0, 0, 0, 0, 0, 9])],
        "does not decompress",
    ),
];

#[test]
fn hostile_qcow2_is_refused() {
    check(Format::Qcow2, QCOW2, |_| {});
}

/// What such an image holds means nothing, but reading it ends.
#[test]
fn tables_of_qcow2_that_point_at_themselves_are_read_once() {
    for at in [192 * KIB, 256 * KIB] {
        let mut image = written(Format::Qcow2);
        image[at..at + 8].copy_from_slice(&(at as u64).to_be_bytes());
        read(image, Limits::default()).expect("read");
    }
}

#[test]
fn clusters_of_qcow2_cannot_share_bytes_of_the_file() {
    let mut image = written(Format::Qcow2);
    // Every cluster of the disk is the same one of the file, which is more than the file has.
    image.truncate(448 * KIB);
    for entry in image[256 * KIB..320 * KIB].chunks_exact_mut(8) {
        entry.copy_from_slice(&(320 * KIB as u64).to_be_bytes());
    }
    let error = read(image, Limits::default()).expect_err("refused");
    assert!(error.contains("overlap"), "{error}");
}

fn vhd_checksums(image: &mut [u8]) {
    let last = image.len() - 512;
    for (at, len, check) in [(0, 512, 64), (512, 1024, 36), (last, 512, 64)] {
        let part = &mut image[at..at + len];
        part[check..check + 4].fill(0);
        let sum = part
            .iter()
            .fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        part[check..check + 4].copy_from_slice(&(!sum).to_be_bytes());
    }
}

/// The header is at 512, its table at 1536; the footer at the end counts before the one at 0, so
/// it is spoiled where the one at 0 is meant.
const VHD_DYNAMIC: &[Case] = &[
    (&[(512, b"cxbroken")], "header is not one"),
    (&[(512 + 16, HUGE)], "outside the file"),
    (&[(512 + 28, &[0; 4])], "too short"),
    (&[(512 + 28, &[0xff; 4])], "outside the file"),
    (&[(512 + 32, &[0; 4])], "impossible size"),
    (&[(512 + 32, &[0, 0x20, 0, 1])], "impossible size"),
    (&[(512 + 32, &[0x80, 0, 0, 0])], "impossible size"),
    (&[(1536, &[0, 0xff, 0, 0])], "within a table"),
    (&[(1540, &[0xff, 0xff, 0xff, 0xfe])], "within a table"),
];

#[test]
fn hostile_vhd_is_refused() {
    check(Format::VhdDynamic, VHD_DYNAMIC, vhd_checksums);
    let last = |format: Format, at: usize, bytes: &[u8], expected: &str| {
        let mut image = written(format);
        let footer = image.len() - 512;
        image[footer + at..footer + at + bytes.len()].copy_from_slice(bytes);
        if format == Format::VhdFixed {
            image[footer + 64..footer + 68].fill(0);
            let sum = image[footer..]
                .iter()
                .map(|byte| u32::from(*byte))
                .sum::<u32>();
            image[footer + 64..footer + 68].copy_from_slice(&(!sum).to_be_bytes());
        } else {
            vhd_checksums(&mut image);
        }
        let error = Image::open_as(image, format, Limits::default()).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    };
    last(Format::VhdDynamic, 60, &[0, 0, 0, 4], "names a parent");
    last(Format::VhdDynamic, 60, &[0, 0, 0, 9], "unknown kind");
    last(Format::VhdDynamic, 48, HUGE, "over the limit");
    last(Format::VhdDynamic, 16, HUGE, "within a table");
    last(Format::VhdFixed, 48, HUGE, "shorter than its footer");
    last(Format::VhdFixed, 60, &[0, 0, 0, 3], "not a fixed disk");
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            let carry = crc & 1 == 1;
            if carry {
                0x82f6_3b78 ^ (crc >> 1)
            } else {
                crc >> 1
            }
        })
    })
}

fn vhdx_checksums(image: &mut [u8]) {
    for (at, len) in [(64, 4), (128, 4), (192, 64), (256, 64)] {
        let part = &mut image[at * KIB..(at + len) * KIB];
        part[4..8].fill(0);
        let check = crc32c(part);
        part[4..8].copy_from_slice(&check.to_le_bytes());
    }
}

const HEAD_2: usize = 128 * KIB;
const REGIONS: usize = 192 * KIB;
const METADATA: usize = 2 * MIB;
const VALUES: usize = METADATA + 64 * KIB;
const BLOCKS: usize = 3 * MIB;

const VHDX: &[Case] = &[
    (
        &[(64 * KIB, b"daeh"), (HEAD_2, b"daeh")],
        "neither of its headers",
    ),
    (&[(HEAD_2 + 48, &[1])], "was not closed cleanly"),
    (&[(HEAD_2 + 66, &[2])], "unknown version"),
    (&[(REGIONS, b"iger"), (256 * KIB, b"iger")], "region tables"),
    (&[(REGIONS + 8, &[0xff; 4])], "too many regions"),
    (&[(REGIONS + 8, &[0; 4])], "no block table"),
    (&[(REGIONS + 16, &[0xaa; 16])], "region that is not known"),
    (&[(REGIONS + 32, HUGE)], "impossible place"),
    (
        &[(REGIONS + 32, &[0, 0, 0, 0, 0, 0, 0, 0x7f])],
        "outside the file",
    ),
    (&[(REGIONS + 40, &[0xff; 4])], "outside the file"),
    (&[(METADATA, b"nothing!")], "metadata are not there"),
    (&[(METADATA + 10, &[0xff; 2])], "too many metadata"),
    (&[(METADATA + 10, &[2, 0])], "metadata are missing"),
    (&[(METADATA + 32, &[0xaa; 16])], "not known"),
    (&[(METADATA + 48, &[0; 4])], "outside their region"),
    (&[(METADATA + 48, &[0xff; 4])], "outside their region"),
    (&[(VALUES, &[0; 4])], "impossible size"),
    (&[(VALUES, &[1, 0, 32, 0])], "impossible size"),
    (&[(VALUES + 4, &[2])], "needs a parent"),
    (
        &[(VALUES + 9, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
        "over the limit",
    ),
    (&[(VALUES + 8, &[1])], "sectors"),
    (&[(VALUES + 8, &[0, 0, 0, 0, 0, 1, 0, 0])], "too short"),
    (&[(VALUES + 32, &[1])], "sectors"),
    (&[(BLOCKS, &[7])], "partly its parent's"),
    (&[(BLOCKS, &[5])], "unknown state"),
    (&[(BLOCKS + 4, &[0xff; 4])], "beyond the end"),
];

#[test]
fn hostile_vhdx_is_refused() {
    check(Format::Vhdx, VHDX, vhdx_checksums);
}

/// A monolithic sparse VMDK of one table: header, descriptor at sector 1, directory at 2, table at
/// 3, one grain of 4 KiB at 8.
fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut image = vec![0; 16 * 512];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"KDMV");
    put(4, &[1]);
    put(12, &(64u64).to_le_bytes());
    put(20, &(8u64).to_le_bytes());
    put(28, &(1u64).to_le_bytes());
    put(36, &(1u64).to_le_bytes());
    put(44, &(128u32).to_le_bytes());
    put(56, &(2u64).to_le_bytes());
    put(512, descriptor.as_bytes());
    put(1024, &(3u32).to_le_bytes());
    put(1536 + 4, &(8u32).to_le_bytes());
    put(4096, &[5; 4096]);
    image
}

const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\n\
    createType=\"monolithicSparse\"\nRW 64 SPARSE \"/etc/shadow\"\n";

#[test]
fn hostile_vmdk_is_refused_and_its_names_are_not_followed() {
    let mut expected = MemDisk::new(64 * 512);
    expected.write_at(4096, &[5; 4096]).expect("write");
    let expected = digest(&expected).expect("digest");
    assert_eq!(read(vmdk(DESCRIPTOR), Limits::default()), Ok(expected));

    let descriptors = [
        (DESCRIPTOR.replace("ffffffff", "12345678"), "names a parent"),
        (DESCRIPTOR.replace("monolithicSparse", "vmfs"), "neither"),
        (
            format!("{DESCRIPTOR}RW 64 FLAT \"other\"\n"),
            "several extents",
        ),
    ];
    for (descriptor, expected) in &descriptors {
        let error = read(vmdk(descriptor), Limits::default()).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }
    let cases: &[Case] = &[
        (&[(4, &[9])], "unknown version"),
        (&[(12, HUGE)], "impossible"),
        (&[(16, &[0xff, 0xff])], "over the limit"),
        (&[(20, &[0; 8])], "grains"),
        (&[(20, &[7])], "grains"),
        (&[(20, HUGE)], "grains"),
        (&[(28, &[0; 8])], "larger disk"),
        (&[(28, HUGE)], "descriptor"),
        (&[(44, &[0xff; 4])], "tables have an impossible length"),
        (&[(44, &[0; 4])], "tables have an impossible length"),
        (&[(56, HUGE)], "header is missing"),
        (&[(56, &[0xff; 7])], "directory"),
        (&[(1024, &[0xff; 4])], "within a table"),
        (&[(1540, &[0xff; 4])], "beyond the end"),
        (&[(10, &[1])], "compressed in a way"),
        (&[(10, &[1]), (77, &[1])], "belongs somewhere else"),
        (
            &[
                (10, &[1]),
                (77, &[1]),
                (4096, &[8, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
            ],
            "impossible length",
        ),
        (
            &[
                (10, &[1]),
                (77, &[1]),
                (4096, &[8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]),
            ],
            "does not decompress",
        ),
    ];
    for (changes, expected) in cases {
        let mut image = vmdk(DESCRIPTOR);
        for (at, bytes) in *changes {
            image[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        let error = read(image, Limits::default()).expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
