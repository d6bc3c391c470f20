//! The footer of a fixed VHD: the last sector of the file, behind a raw disk.
//!
//! Layout after Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0. Numbers are big-endian.

/// The size of a footer.
pub const FOOTER_BYTES: u64 = 512;
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

/// Why a VHD is not taken. The first text is the one with which Azure refuses such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VhdError {
    #[error(
        "the specified cookie value in VHD footer indicates that this is not a supported VHD; the disk is expected to have cookie value 'conectix'"
    )]
    Cookie,
    #[error("the checksum of the VHD's footer is wrong")]
    Checksum,
    #[error("only fixed VHDs are supported; this one is of type {kind}")]
    NotFixed { kind: u32 },
    #[error("the VHD's footer says {said} bytes, but {there} bytes stand before it")]
    Size { said: u64, there: u64 },
}

pub(super) fn is_footer(footer: &Footer) -> bool {
    footer.starts_with(COOKIE)
}

/// Bytes of the disk before the footer of a file of `size` bytes.
pub(super) fn check_fixed(footer: &Footer, size: u64) -> Result<u64, VhdError> {
    if !is_footer(footer) {
        return Err(VhdError::Cookie);
    }
    if number(footer, CHECKSUM_AT) != checksum(footer) {
        return Err(VhdError::Checksum);
    }
    let kind = number(footer, KIND_AT);
    if kind != FIXED {
        return Err(VhdError::NotFixed { kind });
    }
    let high = u64::from(number(footer, CURRENT_SIZE_AT));
    let said = (high << 32) | u64::from(number(footer, CURRENT_SIZE_AT + 4));
    let there = size.saturating_sub(FOOTER_BYTES);
    if said != there {
        return Err(VhdError::Size { said, there });
    }
    Ok(said)
}

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
    seal(&mut footer);
    footer
}

/// Writes the checksum of what the footer holds.
pub(super) fn seal(footer: &mut Footer) {
    let sum = checksum(footer).to_be_bytes();
    footer[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum);
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

fn number(footer: &Footer, at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&footer[at..at + 4]);
    u32::from_be_bytes(bytes)
}
