//! Any part of an image, without what comes before it: for a download that goes on where it was
//! cut off.
//!
//! The parts of one disk in one format always fit together, whoever writes them and when.

use std::ops::Range;

use super::{ExportError, Options, Output, Report, Sink, qcow2, write_plain};
use crate::ReadAt;
use crate::image::Format;

/// An image that can be written in parts. It belongs to the disk that it was made for.
///
/// Memory is 16 bytes for each cluster of a qcow2 image, and next to nothing for others.
#[derive(Debug)]
pub struct Plan {
    options: Options,
    image_bytes: u64,
    places: Option<qcow2::Places>,
}

/// Finds out how an image will be. For qcow2 all of the disk is compressed for that; for other
/// formats nothing is read.
pub fn plan(disk: &dyn ReadAt, options: &Options, report: Report<'_>) -> Result<Plan, ExportError> {
    let mut nowhere = Vec::new();
    let mut out = Output::new(&mut nowhere, 0..0, report);
    let (image_bytes, places) = match options.format {
        Format::Qcow2 => {
            let places = qcow2::places(disk, &mut out)?;
            (places.image_bytes(), Some(places))
        }
        _ => {
            write_plain(disk, options, &mut out)?;
            (out.at, None)
        }
    };
    Ok(Plan {
        options: *options,
        image_bytes,
        places,
    })
}

impl Plan {
    /// The length of the image, holes included.
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Writes a part of the image. `report` is told how far the disk is.
    pub fn write(
        &self,
        disk: &dyn ReadAt,
        range: Range<u64>,
        sink: &mut dyn Sink,
        report: Report<'_>,
    ) -> Result<(), ExportError> {
        let mut out = Output::new(sink, range, report);
        match &self.places {
            Some(places) => qcow2::write_placed(disk, places, &mut out),
            None => write_plain(disk, &self.options, &mut out).map(drop),
        }
    }
}
