//! Entrances for the fuzzer: a client that says anything at all. Not part of the crate's face.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use disk::{MemDisk, ReadAt, WriteAt};

use crate::export::{Export, ExportMap};
use crate::handshake::{Agreed, negotiate};
use crate::link::{Link, lock};
use crate::pool::{Budget, Pool};
use crate::session::{Common, serve};

const DISK_BYTES: usize = 256 << 10;
const MEMORY: u64 = 64 << 20;

/// A peer that has said everything already, and hears nothing.
struct Script(Mutex<Vec<u8>>);

impl Link for Script {
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut left = lock(&self.0);
        let len = left.len().min(buf.len());
        buf[..len].copy_from_slice(&left[..len]);
        left.drain(..len);
        Ok(len)
    }

    fn send(&self, _: &[&[u8]]) -> io::Result<()> {
        Ok(())
    }

    fn set_deadline(&self, _: Option<Instant>) {}
}

/// A disk in memory that anybody may write to.
struct Scratch(Mutex<MemDisk>);

impl ReadAt for Scratch {
    fn size(&self) -> u64 {
        DISK_BYTES as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        lock(&self.0).read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        lock(&self.0).next_data(offset)
    }
}

impl Export for Scratch {
    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).write_at(offset, bytes)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        lock(&self.0).zero_at(offset, len)
    }
}

fn common() -> io::Result<Arc<Common>> {
    Ok(Arc::new(Common {
        pool: Pool::new(0)?,
        memory: Budget::new(MEMORY),
    }))
}

fn scratch() -> Arc<Scratch> {
    Arc::new(Scratch(Mutex::new(MemDisk::new(DISK_BYTES))))
}

/// From the first byte that a client sends. Any end is fine but a panic or one that never comes.
pub fn connection(bytes: &[u8]) {
    let exports = ExportMap::new();
    exports.put("disk", scratch());
    let link = Arc::new(Script(Mutex::new(bytes.to_vec())));
    if let (Ok(Some(agreed)), Ok(common)) = (negotiate(link, &exports, None), common()) {
        let _ = serve(agreed, &common);
    }
}

/// From the first request on.
pub fn requests(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let agreed = Agreed {
        link: Arc::new(Script(Mutex::new(bytes.to_vec()))),
        export: scratch(),
        is_structured: first & 1 == 1,
        has_status: first & 2 == 2,
    };
    if let Ok(common) = common() {
        let _ = serve(agreed, &common);
    }
}
