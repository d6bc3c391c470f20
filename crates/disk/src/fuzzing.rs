//! What a hostile image is put through, for fuzzing only. Checksums are put right first, or
//! nothing behind them would ever be reached.

use crate::image::{Format, Image, Layer, Limits, crc32c, vhd_checksum};
use crate::{ReadAt, is_zero};

/// No disk in a fuzzed image is larger, so that one run is short.
const MAX_BYTES: u64 = 8 << 20;
/// What is read of a disk at its start and at its end.
const READ: usize = 64 << 10;

/// Opens `data` as an image, walks its holes, and reads both sides of them.
pub fn image(format: Format, data: &[u8]) {
    let mut data = data.to_vec();
    match format {
        Format::VhdFixed | Format::VhdDynamic => right_vhd(&mut data),
        Format::Vhdx => right_vhdx(&mut data),
        _ => {}
    }
    let limits = Limits {
        max_bytes: MAX_BYTES,
    };
    if format == Format::Qcow2 {
        layer(data.clone(), limits);
    }
    let Ok(image) = Image::open_as(data, format, limits) else {
        return;
    };
    let size = image.size();
    assert!(size <= MAX_BYTES, "a disk over the limit");
    let mut buf = vec![0xee; READ.min(size as usize)];
    let _ = image.read_at(0, &mut buf);
    let _ = image.read_at(size - buf.len() as u64, &mut buf);
    let mut offset = 0;
    while let Ok(Some(data)) = image.next_data(offset) {
        assert!(data.start >= offset && data.start < data.end && data.end <= size);
        let hole = (data.start - offset).min(buf.len() as u64) as usize;
        if image.read_at(offset, &mut buf[..hole]).is_ok() {
            assert!(is_zero(&buf[..hole]), "data in a hole");
        }
        offset = data.end;
    }
}

/// The same bytes as what was written over a disk of ones.
fn layer(data: Vec<u8>, limits: Limits) {
    let Ok(layer) = Layer::open(data, limits) else {
        return;
    };
    let disk = layer.over(vec![1; layer.size() as usize / 2]);
    let mut buf = [0; 4096];
    let mut offset = 0;
    while let Ok(Some(written)) = layer.next_written(offset) {
        assert!(written.start >= offset && written.start < written.end);
        let below = written.start.min(disk.size() / 2).saturating_sub(offset);
        let below = below.min(buf.len() as u64) as usize;
        if disk.read_at(offset, &mut buf[..below]).is_ok() {
            assert!(
                buf[..below].iter().all(|byte| *byte == 1),
                "the disk below is hidden"
            );
        }
        offset = written.end;
    }
}

fn right_vhd(data: &mut [u8]) {
    let len = data.len();
    let ends = [0, len.saturating_sub(512)];
    for at in ends {
        if let Some(footer) = data.get_mut(at..at + 512) {
            footer[..8].copy_from_slice(b"conectix");
            let check = vhd_checksum(footer, 64);
            footer[64..68].copy_from_slice(&check.to_be_bytes());
        }
    }
    if let Some(header) = data.get_mut(512..1536) {
        header[..8].copy_from_slice(b"cxsparse");
        let check = vhd_checksum(header, 36);
        header[36..40].copy_from_slice(&check.to_be_bytes());
    }
}

fn right_vhdx(data: &mut [u8]) {
    const STRUCTURES: [(usize, usize, &[u8; 4]); 2] =
        [(64 << 10, 4 << 10, b"head"), (192 << 10, 64 << 10, b"regi")];
    for (at, len, signature) in STRUCTURES {
        if let Some(part) = data.get_mut(at..at + len) {
            part[..4].copy_from_slice(signature);
            part[4..8].fill(0);
            let check = crc32c(part);
            part[4..8].copy_from_slice(&check.to_le_bytes());
        }
    }
}

/// A VHDX is mostly gaps, in which a fuzzer would lose itself: the parts that matter, given one
/// after the other, are put where they belong.
pub fn vhdx(data: &[u8]) {
    const PARTS: [(usize, usize); 5] = [
        (64 << 10, 128),
        (192 << 10, 128),
        (2 << 20, 256),
        ((2 << 20) + (64 << 10), 64),
        (3 << 20, 4096),
    ];
    let mut image = vec![0; 6 << 20];
    let mut data = data;
    for (at, len) in PARTS {
        let (part, rest) = data.split_at(data.len().min(len));
        image[at..at + part.len()].copy_from_slice(part);
        data = rest;
    }
    image[2 << 20..][..8].copy_from_slice(b"metadata");
    self::image(Format::Vhdx, &image);
}
