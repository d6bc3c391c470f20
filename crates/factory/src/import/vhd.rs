//! The footer that makes a fixed VHD of a raw disk: its last sector. Reading VHDs is the matter of `disk`.
//!
//! Layout after Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0. Numbers are big-endian.

/// The size of a footer.
const FOOTER_BYTES: u64 = 512;
const COOKIE: &[u8; 8] = b"conectix";
const VERSION_AT: usize = 12;
const DATA_OFFSET_AT: usize = 16;
const ORIGINAL_SIZE_AT: usize = 40;
const CURRENT_SIZE_AT: usize = 48;
const GEOMETRY_AT: usize = 56;
const KIND_AT: usize = 60;
const CHECKSUM_AT: usize = 64;
const FIXED: u32 = 2;

type Footer = [u8; FOOTER_BYTES as usize];

/// The footer that makes a fixed VHD of a raw disk of `size` bytes.
pub fn fixed_footer(size: u64) -> Footer {
    let mut footer = [0; FOOTER_BYTES as usize];
    footer[..COOKIE.len()].copy_from_slice(COOKIE);
    // Feature "reserved", which is always set.
    footer[11] = 2;
    footer[VERSION_AT..VERSION_AT + 4].copy_from_slice(&0x0001_0000u32.to_be_bytes());
    footer[DATA_OFFSET_AT..DATA_OFFSET_AT + 8].fill(0xff);
    for at in [ORIGINAL_SIZE_AT, CURRENT_SIZE_AT] {
        footer[at..at + 8].copy_from_slice(&size.to_be_bytes());
    }
    // Cylinders, heads, sectors per track: readers go by the size above.
    let cylinders = u16::try_from(size / (16 * 63 * 512)).unwrap_or(u16::MAX);
    footer[GEOMETRY_AT..GEOMETRY_AT + 2].copy_from_slice(&cylinders.to_be_bytes());
    footer[GEOMETRY_AT + 2..KIND_AT].copy_from_slice(&[16, 63]);
    footer[KIND_AT..KIND_AT + 4].copy_from_slice(&FIXED.to_be_bytes());
    let sum = checksum(&footer).to_be_bytes();
    footer[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum);
    footer
}

/// The one's complement of the sum of all bytes but those of the checksum itself.
fn checksum(footer: &Footer) -> u32 {
    let of_itself = CHECKSUM_AT..CHECKSUM_AT + 4;
    let counted = footer
        .iter()
        .enumerate()
        .filter(|(at, _)| !of_itself.contains(at));
    !counted.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}
