//! Images written in parts: whatever the cuts, they are the image.

use disk::export::{Options, Stream, export, plan};
use disk::image::Format;
use disk::{BLOCK_SIZE, MemDisk, WriteAt};
use proptest::prelude::*;
use uuid::Uuid;

fn image(blocks: &[(u16, u8)], tail: usize) -> MemDisk {
    let mut disk = MemDisk::new((6 << 20) + tail);
    for (at, byte) in blocks {
        let offset = u64::from(*at) % 1536 * BLOCK_SIZE as u64;
        // Some of it does not get smaller.
        let bytes: Vec<u8> = (0..BLOCK_SIZE as u32)
            .map(|n| match byte % 3 {
                0 => (n.wrapping_mul(2_654_435_761) >> (byte % 20)) as u8,
                _ => byte | 1,
            })
            .collect();
        disk.write_at(offset, &bytes).unwrap();
    }
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn parts_make_the_image(
        blocks in prop::collection::vec((any::<u16>(), any::<u8>()), 0..60),
        tail in 0usize..5000,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let disk = image(&blocks, tail);
        let formats =
            [Format::Raw, Format::Qcow2, Format::VhdFixed, Format::VhdDynamic, Format::Vhdx];
        for format in formats {
            let id = Uuid::from_bytes([7; 16]);
            let options = Options { format, id };
            let mut whole = Stream(Vec::new());
            let exported = export(&disk, &options, &mut whole, &|_| true).unwrap();
            let plan = plan(&disk, &options, &|_| true).unwrap();
            prop_assert_eq!(plan.image_bytes(), exported.image_bytes);
            prop_assert_eq!(plan.image_bytes(), whole.0.len() as u64);
            let mut ends: Vec<u64> = cuts.iter().map(|cut| cut.index(whole.0.len() + 1) as u64).collect();
            ends.push(whole.0.len() as u64);
            ends.sort_unstable();
            let mut parts = Stream(Vec::new());
            let mut start = 0;
            for end in ends {
                plan.write(&disk, start..end, &mut parts, &|_| true).unwrap();
                prop_assert_eq!(parts.0.len() as u64, end);
                start = end;
            }
            prop_assert!(parts.0 == whole.0, "{}", format);
        }
    }
}
