//! Partition tables: what is written is what is read, and bytes from outside never panic.

use disk::layout::{
    Gpt, HybridLayout, LayoutError, PartitionIds, PartitionKind, SECTOR, partitions,
};
use disk::{MemDisk, ReadAt, WriteAt, digest_of};
use proptest::prelude::*;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB;

fn layout() -> HybridLayout {
    let ids = PartitionIds {
        disk: Uuid::from_u128(1),
        bios_boot: Uuid::from_u128(2),
        esp: Uuid::from_u128(3),
        root: Uuid::from_u128(4),
    };
    HybridLayout::new(SIZE, ids).expect("layout")
}

fn written() -> MemDisk {
    let mut disk = MemDisk::new(SIZE as usize);
    layout().write_tables(&mut disk).expect("tables");
    let boot: Vec<u8> = (0..512).map(|at| at as u8 | 1).collect();
    let core: Vec<u8> = (0..30_000).map(|at| (at / 7) as u8 | 1).collect();
    layout()
        .write_bios_boot(&mut disk, &boot, &core)
        .expect("boot code");
    disk
}

fn word(disk: &MemDisk, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&disk.as_bytes()[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[test]
fn partitions_are_found_by_either_table() {
    let ranges = partitions(&written()).expect("a GPT");
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[2], layout().root());

    let check = |entries: &[(u8, u32, u32)], expected: Result<&[std::ops::Range<u64>], &str>| {
        let mut disk = MemDisk::new(MIB as usize);
        for (index, (kind, first, count)) in entries.iter().enumerate() {
            let at = 446 + 16 * index as u64;
            disk.write_at(at + 4, &[*kind]).expect("write");
            disk.write_at(at + 8, &first.to_le_bytes()).expect("write");
            disk.write_at(at + 12, &count.to_le_bytes()).expect("write");
        }
        disk.write_at(510, &[0x55, 0xaa]).expect("write");
        let found = partitions(&disk).map_err(|error| error.to_string());
        let expected =
            expected.map_err(|why| format!("the disk has no usable partition table: {why}"));
        assert_eq!(found, expected.map(<[_]>::to_vec));
    };
    check(&[], Ok(&[]));
    check(
        &[(7, 8, 8), (0x0f, 16, 8), (0, 24, 8), (0x83, 32, 2016)],
        Ok(&[4096..8192, 16384..1_048_576]),
    );
    let outside = Err("a partition lies outside the disk");
    check(&[(7, 8, 0)], outside);
    check(&[(7, 2047, 2)], outside);
    check(&[(7, u32::MAX, u32::MAX)], outside);
    check(
        &[(0xee, 1, 2047)],
        Err("the GPT that its MBR stands for is none"),
    );
    assert!(partitions(&MemDisk::new(MIB as usize)).is_err());
}

#[test]
fn partitions_are_where_they_should_be() {
    let disk = written();
    let table = Gpt::read(&disk).expect("table");
    assert_eq!(table, layout().table());
    let lbas: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.first_lba, p.last_lba))
        .collect();
    assert_eq!(
        lbas,
        [
            (2048, 4095),
            (4096, 135_167),
            (135_168, SIZE / SECTOR - 2049)
        ]
    );
    assert_eq!(table.root().expect("root").range(), layout().root());
    assert_eq!(
        table.find(PartitionKind::EfiSystem).expect("esp").range(),
        layout().esp()
    );
}

#[test]
fn boot_code_knows_where_the_next_piece_is() {
    let disk = written();
    assert_eq!(word(&disk, 0x5c), 2048);
    assert_eq!(
        disk.as_bytes()[439],
        439u16 as u8 | 1,
        "code up to the table"
    );
    assert_eq!(disk.as_bytes()[510..512], [0x55, 0xaa]);
    assert_eq!(disk.as_bytes()[450], 0xee, "protective partition");
    let core = 2048 * 512;
    assert_eq!(word(&disk, core + 500), 2049);
    assert_eq!(
        disk.as_bytes()[core + 508..core + 510],
        58u16.to_le_bytes(),
        "sectors after the first"
    );
    assert_eq!(disk.as_bytes()[core + 510..core + 512], [0x20, 0x08]);
}

/// The bytes of a laid-out disk are an input of every image's name.
#[test]
fn golden_digest_of_a_laid_out_disk() {
    let (digest, _) = digest_of(&written()).expect("digest");
    assert_eq!(digest.to_string(), GOLDEN);
}

const GOLDEN: &str = "bd1:0a6a16ccde5f5c1acbe108b31cb1c94126585f5d4a21654a8713951a0f82f90b";

#[test]
fn the_second_copy_serves_when_the_first_is_damaged() {
    for damaged in [SECTOR, SECTOR + 20, 2 * SECTOR, 3 * SECTOR - 1] {
        let mut disk = written();
        disk.write_at(damaged, &[0x77]).expect("damage");
        assert_eq!(
            Gpt::read(&disk).expect("second copy"),
            layout().table(),
            "byte {damaged}"
        );
    }
    let mut disk = written();
    disk.write_at(SECTOR, &[0; 8]).expect("damage");
    disk.write_at(SIZE - SECTOR, &[0; 8]).expect("damage");
    assert!(matches!(Gpt::read(&disk), Err(LayoutError::NoTable(_))));
}

#[test]
fn impossible_inputs_are_refused() {
    let ids = PartitionIds {
        disk: Uuid::nil(),
        bios_boot: Uuid::nil(),
        esp: Uuid::nil(),
        root: Uuid::nil(),
    };
    assert!(matches!(
        HybridLayout::new(SIZE + 512, ids),
        Err(LayoutError::Unaligned { .. })
    ));
    assert!(matches!(
        HybridLayout::new(64 * MIB, ids),
        Err(LayoutError::TooSmall { .. })
    ));
    let mut disk = MemDisk::new(SIZE as usize);
    let mut boot = |boot: usize, core: usize| {
        layout().write_bios_boot(&mut disk, &vec![1; boot], &vec![1; core])
    };
    assert!(matches!(boot(511, 1024), Err(LayoutError::BootImage(511))));
    assert!(matches!(boot(512, 512), Err(LayoutError::CoreImage { .. })));
    assert!(matches!(
        boot(512, MIB as usize + 1),
        Err(LayoutError::CoreImage { .. })
    ));
    let mut other = MemDisk::new(MIB as usize);
    assert!(
        layout().write_tables(&mut other).is_err(),
        "a disk of another size"
    );
}

/// The first sectors of a table on a small disk, for damaging.
fn small_table() -> Vec<u8> {
    let whole = written();
    let mut small = whole.as_bytes()[..34 * 512].to_vec();
    small.resize(40 * 512, 0);
    small
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = Gpt::read(&bytes);
        let mut signed = bytes;
        if signed.len() > 520 {
            signed[512..520].copy_from_slice(b"EFI PART");
            let _ = Gpt::read(&signed);
        }
    }

    #[test]
    fn a_damaged_table_never_panics(damage in prop::collection::vec((0usize..4096, any::<u8>()), 1..4)) {
        let mut bytes = small_table();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if let Ok(table) = Gpt::read(&bytes) {
            for partition in table.partitions {
                prop_assert!(partition.range().end <= bytes.size());
            }
        }
    }
}
