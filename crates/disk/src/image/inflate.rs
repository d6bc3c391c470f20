//! Decompressing one cluster or grain, whose size is known.
//!
//! Memory is bounded before anything is decompressed: the output is given, and a zstd window may
//! be no larger than the largest cluster.

use flate2::{Decompress, FlushDecompress};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

/// The largest cluster of any format is 2 MiB; a window may be twice that.
const MAX_WINDOW_LOG: u32 = 22;

/// How a cluster is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// Deflate without a header: qcow2.
    Deflate,
    /// Deflate in a zlib wrapper: VMDK.
    Zlib,
    Zstd,
}

/// Fills `into` with what `packed` starts with. What follows it is ignored, because the length of
/// a compressed cluster is known only roughly.
pub(super) fn inflate(codec: Codec, packed: &[u8], into: &mut [u8]) -> Result<(), &'static str> {
    let full = match codec {
        Codec::Deflate => deflate(packed, into, false),
        Codec::Zlib => deflate(packed, into, true),
        Codec::Zstd => unzstd(packed, into),
    };
    match full {
        Some(true) => Ok(()),
        Some(false) => Err("a compressed part holds too little"),
        None => Err("a compressed part does not decompress"),
    }
}

fn deflate(packed: &[u8], into: &mut [u8], wrapped: bool) -> Option<bool> {
    let mut decoder = Decompress::new(wrapped);
    // One call fills the output, or there is nothing more to come.
    decoder
        .decompress(packed, into, FlushDecompress::Finish)
        .ok()?;
    Some(decoder.total_out() == into.len() as u64)
}

fn unzstd(packed: &[u8], into: &mut [u8]) -> Option<bool> {
    let mut decoder = Decoder::new().ok()?;
    decoder
        .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
        .ok()?;
    let len = into.len();
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around(into);
    loop {
        let before = (input.pos(), output.pos());
        let hint = decoder.run(&mut input, &mut output).ok()?;
        if output.pos() == len {
            return Some(true);
        }
        // A frame ended early, or nothing moves any more.
        if hint == 0 || before == (input.pos(), output.pos()) {
            return Some(false);
        }
    }
}
