//! Reading a stored disk back in full and holding it against its name.

use disk::{
    CHUNK_SIZE, ChunkDigester, ChunkHash, DiskDigest, ReadAt, chunk_count, digest_of_chunks,
    read_sparse,
};

use crate::bulk::batches;
use crate::error::StoreError;
use crate::frame::{FrameId, frame_id};
use crate::index::Location;
use crate::parallel;
use crate::store::Store;
use crate::view::StoredDisk;

/// Damaged frames that a report names; more than this is more than anyone reads.
const MAX_NAMED: usize = 1000;

/// A frame whose bytes are not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFrame {
    pub frame: FrameId,
    pub pack: String,
}

/// What was read, and what was wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    pub digest: DiskDigest,
    pub frames: u64,
    pub stored_bytes: u64,
    pub data_bytes: u64,
    /// Empty for a sound disk.
    pub damaged: Vec<DamagedFrame>,
}

impl VerifyReport {
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
    }
}

impl Store {
    /// Reads every frame of a disk; if all are sound, computes the digest again. A digest that
    /// comes out different is an error, because then the store itself is wrong.
    pub fn verify(&self, digest: &DiskDigest) -> Result<VerifyReport, StoreError> {
        let disk = self.disk(digest)?;
        let frames = self.0.locate(disk.manifest())?;
        let damaged = self.damaged_frames(&frames)?;
        if damaged.is_empty() {
            let found = self.digest_again(&disk)?;
            if found != *digest {
                return Err(StoreError::WrongContent {
                    expected: *digest,
                    found,
                });
            }
        }
        Ok(VerifyReport {
            digest: *digest,
            frames: frames.len() as u64,
            stored_bytes: frames.iter().map(|at| u64::from(at.len)).sum(),
            data_bytes: disk.manifest().data_bytes(),
            damaged,
        })
    }

    fn damaged_frames(&self, frames: &[Location]) -> Result<Vec<DamagedFrame>, StoreError> {
        let inner = &*self.0;
        let numbered = frames.iter().zip(0u32..).map(|(at, number)| (number, *at));
        let mut work: Vec<_> = batches(numbered)
            .into_iter()
            .map(|b| (b, Vec::new()))
            .collect();
        parallel::for_each(
            inner.threads(),
            &mut work,
            || (),
            |(), (batch, damaged)| {
                let read = batch.stored(inner, |_, at, stored| {
                    if frame_id(at.codec, at.blocks, stored) != at.id {
                        damaged.push(*at);
                    }
                    Ok(())
                });
                match read {
                    // The pack was cut short: nothing of this read is there.
                    Err(StoreError::Damaged { .. }) => {
                        damaged.extend(batch.frames.iter().map(|(_, at)| *at));
                        Ok(())
                    }
                    other => other,
                }
            },
        )?;
        let index = inner.index();
        let found = work.iter().flat_map(|(_, damaged)| damaged).take(MAX_NAMED);
        Ok(found
            .map(|at| DamagedFrame {
                frame: at.id,
                pack: index.pack(at.pack).to_string(),
            })
            .collect())
    }

    fn digest_again(&self, disk: &StoredDisk) -> Result<DiskDigest, StoreError> {
        let size = disk.size();
        let mut chunks: Vec<_> = (0..chunk_count(size))
            .map(|index| (index, ChunkHash::ZERO))
            .collect();
        let state = || (ChunkDigester::new(size), Vec::new());
        parallel::for_each(
            self.0.threads(),
            &mut chunks,
            state,
            |(digester, buf), (index, hash)| {
                let start = *index as u64 * CHUNK_SIZE as u64;
                let data = disk.next_data(start)?;
                if data.is_none_or(|data| data.start >= start + CHUNK_SIZE as u64) {
                    return Ok(());
                }
                buf.resize((size - start).min(CHUNK_SIZE as u64) as usize, 0);
                read_sparse(disk, start, buf)?;
                *hash = digester.chunk(*index, buf);
                Ok(())
            },
        )
        .map_err(StoreError::ReadDisk)?;
        let hashes: Vec<_> = chunks.into_iter().map(|(_, hash)| hash).collect();
        Ok(digest_of_chunks(size, &hashes))
    }
}
