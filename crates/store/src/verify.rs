//! Reading a stored disk back in full and holding it against its name.

use disk::{
    CHUNK_SIZE, ChunkDigester, ChunkHash, DiskDigest, ReadAt, digest_of_top, node_above,
    read_sparse,
};

use crate::bulk::batches;
use crate::error::StoreError;
use crate::frame::{FrameId, frame_id};
use crate::index::Location;
use crate::parallel;
use crate::section::{BRANCH_SECTIONS, SECTION_CHUNKS};
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
        let mut report = VerifyReport {
            digest: *digest,
            frames: 0,
            stored_bytes: 0,
            data_bytes: disk.manifest().data_bytes(),
            damaged: Vec::new(),
        };
        // A frame may be in several stretches and is read for each: memory stays small.
        self.0.each_stretch(disk.manifest(), |stretch| {
            let at = self.0.locate_all(&stretch.frames, digest)?;
            report.frames += at.len() as u64;
            report.stored_bytes += at.iter().map(|at| u64::from(at.len)).sum::<u64>();
            let damaged = self.damaged_among(at)?;
            let room = MAX_NAMED - report.damaged.len().min(MAX_NAMED);
            report.damaged.extend(damaged.into_iter().take(room));
            Ok(())
        })?;
        if report.is_sound() {
            let found = self.digest_again(&disk)?;
            if found != *digest {
                return Err(StoreError::WrongContent {
                    expected: *digest,
                    found,
                });
            }
        }
        Ok(report)
    }

    /// Reads everything that is in the packs, whether a disk needs it or not. No key is needed.
    pub fn scrub(&self) -> Result<Vec<DamagedFrame>, StoreError> {
        let mut damaged = Vec::new();
        let packs: Vec<u32> = self.0.index().pack_numbers().collect();
        for pack in packs {
            let at = self.0.frames_of(pack)?;
            damaged.extend(self.damaged_among(at)?);
            damaged.truncate(MAX_NAMED);
        }
        Ok(damaged)
    }

    fn damaged_among(&self, at: Vec<Location>) -> Result<Vec<DamagedFrame>, StoreError> {
        let inner = &*self.0;
        let mut work: Vec<_> = batches((0u32..).zip(at))
            .into_iter()
            .map(|batch| (batch, Vec::new()))
            .collect();
        parallel::for_each(
            inner.threads(),
            &mut work,
            || (),
            |(), (batch, damaged)| {
                let read = batch.stored(inner, |_, at, stored| {
                    if frame_id(at.coding, at.blocks, stored) != at.id {
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
        let found = work.iter().flat_map(|(_, damaged)| damaged);
        Ok(found
            .map(|at| DamagedFrame {
                frame: at.id,
                pack: index.pack(at.pack),
            })
            .collect())
    }

    pub(crate) fn digest_again(&self, disk: &StoredDisk) -> Result<DiskDigest, StoreError> {
        let size = disk.size();
        let shape = disk.manifest().shape();
        let mut tops = vec![ChunkHash::ZERO; shape.root_width()];
        let state = || (ChunkDigester::new(size), Vec::new());
        let per_branch = SECTION_CHUNKS * BRANCH_SECTIONS as usize;
        for (branch, top) in tops.iter_mut().enumerate() {
            let first = branch * per_branch;
            let mut chunks: Vec<_> = (first..first + per_branch)
                .map(|index| (index, ChunkHash::ZERO))
                .collect();
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
            let width = shape.section_width() * shape.branch_width();
            *top = node_above(&hashes[..width]);
        }
        Ok(digest_of_top(size, &node_above(&tops)))
    }
}
