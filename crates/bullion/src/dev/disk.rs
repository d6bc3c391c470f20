//! The tiny disk of a throw-away server: it has a partition table and a few words, and boots nothing.

/// The smallest size that Azure's rule for VHDs allows: whole mebibytes.
const DISK_BYTES: usize = 1 << 20;
const SECTOR: usize = 512;
const PARTITION_START: u32 = 64;
const LINUX: u8 = 0x83;

/// A fixed VHD whose disk says `label`.
pub fn vhd(label: &str) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES];
    // One primary partition to the end, after the classic layout of a boot sector.
    let sectors = u32::try_from(DISK_BYTES / SECTOR).unwrap_or(u32::MAX) - PARTITION_START;
    let entry = &mut disk[446..462];
    entry[4] = LINUX;
    entry[8..12].copy_from_slice(&PARTITION_START.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let at = PARTITION_START as usize * SECTOR;
    disk[at..at + label.len()].copy_from_slice(label.as_bytes());
    let footer = server::fixed_footer(DISK_BYTES as u64);
    disk.extend(footer);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vhd_is_a_disk_and_one_sector() {
        let vhd = vhd("bullion dev 1");
        assert_eq!(vhd.len(), DISK_BYTES + SECTOR);
        assert_eq!(vhd[510..512], [0x55, 0xaa]);
        assert!(vhd[DISK_BYTES..].starts_with(b"conectix"));
    }
}
