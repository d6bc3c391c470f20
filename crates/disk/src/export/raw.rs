//! The disk itself, with holes where it is zero.

use super::{ExportError, Output};
use crate::ReadAt;

pub(super) fn write(disk: &dyn ReadAt, out: &mut Output<'_>) -> Result<u64, ExportError> {
    let size = disk.size();
    out.disk(disk, 0, size)?;
    Ok(size)
}
