//! The data disks of a machine: files in its folder beside the one that it boots from.

/// The file of the data disk of a number, in the machine's folder.
pub(super) fn file_name(lun: u32) -> String {
    format!("data-{lun}.raw")
}
