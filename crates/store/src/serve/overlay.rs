//! A disk that can be written to on top of one that cannot: what is written goes to a sparse file,
//! with a map of the blocks that are there.
//!
//! What was flushed outlasts a loss of power: the file is made durable before the map says so, and
//! in the map a block is only ever added. What was written after the last flush may be there block
//! by block, as on any disk. The file must not be in use by anybody else; nothing here can know.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::disk::{BLOCK_SIZE, DiskDigest, ReadAt, check_range};
use nbd::Export;

use crate::codec::Reader;
use crate::file::FileDisk;
use crate::manifest::MAX_DISK_BYTES;

const MAGIC: &[u8; 8] = b"BULOVER\0";
const VERSION: u32 = 1;
const CHECK_CONTEXT: &str = "bullion overlay map v1";
/// Where the bits begin.
const HEADER_LEN: usize = 4096;
const SUFFIX: &str = ".map";
const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blocks in one word of the map, and words in what is written of it at a time.
const PER_WORD: u64 = 64;
const PAGE_WORDS: usize = 512;
/// Locks for writers, each for every so many MiB of the disk.
const STRIPES: usize = 64;
const STRIPE_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error("{doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("a disk of {size} bytes is over the limit of {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("a disk of {size} bytes on one of {parent} would be cut short")]
    TooSmall { size: u64, parent: u64 },
}

/// A writable disk over a parent. Reads and writes from many threads are welcome.
pub struct Overlay {
    base: DiskDigest,
    parent: Arc<dyn Export>,
    size: u64,
    data: FileDisk,
    map: File,
    /// One bit for each block that was written.
    written: Vec<AtomicU64>,
    /// Parts of the map that are not in its file yet.
    unsaved: Mutex<Vec<bool>>,
    stripes: [Mutex<()>; STRIPES],
    flushing: Mutex<()>,
    /// A device that failed to keep something once may say afterwards that all is well.
    is_lost: AtomicBool,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("base", &self.base)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Overlay {
    /// A new one in the files `path` and `path`.map, which must not be there. `parent` is the disk
    /// `base`; the new disk may be larger, and is zero beyond it.
    pub fn create(
        path: &Path,
        base: DiskDigest,
        parent: Arc<dyn Export>,
        size: u64,
    ) -> Result<Overlay, OverlayError> {
        check_size(size, parent.size())?;
        let data = FileDisk::create(path, size).map_err(file("make", path))?;
        let map_path = map_path(path);
        let make = || {
            let mut options = OpenOptions::new();
            let map = options.read(true).write(true).create_new(true);
            let map = map.open(&map_path)?;
            map.write_all_at(&header(&base, size), 0)?;
            map.set_len(HEADER_LEN as u64 + words(size) as u64 * 8)?;
            map.sync_all()?;
            data.sync()?;
            let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(map)
        };
        let map = make().map_err(file("make", &map_path))?;
        let bits = vec![0; words(size)];
        Ok(Overlay::new((base, parent, size), data, map, bits))
    }

    /// One that is there: all that was flushed. `parent` must be the disk that it was made on.
    pub fn open(path: &Path, parent: Arc<dyn Export>) -> Result<Overlay, OverlayError> {
        let map_path = map_path(path);
        let damaged = |what| OverlayError::Damaged {
            path: map_path.clone(),
            what,
        };
        let mut options = OpenOptions::new();
        let map = options.read(true).write(true).open(&map_path);
        let map = map.map_err(file("open", &map_path))?;
        let mut head = vec![0; HEADER_LEN];
        map.read_exact_at(&mut head, 0)
            .map_err(file("read", &map_path))?;
        let (base, size) = read_header(&head).map_err(damaged)?;
        check_size(size, parent.size())?;
        let data = FileDisk::open_writable(path).map_err(file("open", path))?;
        if data.size() != size {
            return Err(OverlayError::Damaged {
                path: path.to_owned(),
                what: "it has another length than its map says",
            });
        }
        let mut bytes = vec![0; words(size) * 8];
        map.read_exact_at(&mut bytes, HEADER_LEN as u64)
            .map_err(file("read", &map_path))?;
        let bits = bytes.chunks_exact(8).map(|word| {
            let word: [u8; 8] = word.try_into().unwrap_or_default();
            u64::from_le_bytes(word)
        });
        let bits = bits.collect();
        Ok(Overlay::new((base, parent, size), data, map, bits))
    }

    /// Whether a file has a map beside it, which makes it the upper part of a disk.
    pub fn is_one(path: &Path) -> bool {
        Overlay::base_of(path).is_ok()
    }

    /// Which disk lies below these files.
    pub fn base_of(path: &Path) -> Result<DiskDigest, OverlayError> {
        let map_path = map_path(path);
        let mut head = vec![0; HEADER_LEN];
        let read = File::open(&map_path).and_then(|map| map.read_exact_at(&mut head, 0));
        read.map_err(file("read", &map_path))?;
        match read_header(&head) {
            Ok((base, _)) => Ok(base),
            Err(what) => Err(OverlayError::Damaged {
                path: map_path,
                what,
            }),
        }
    }

    fn new(
        (base, parent, size): (DiskDigest, Arc<dyn Export>, u64),
        data: FileDisk,
        map: File,
        bits: Vec<u64>,
    ) -> Overlay {
        Overlay {
            base,
            parent,
            size,
            data,
            map,
            unsaved: Mutex::new(vec![false; bits.len().div_ceil(PAGE_WORDS)]),
            written: bits.into_iter().map(AtomicU64::new).collect(),
            stripes: [const { Mutex::new(()) }; STRIPES],
            flushing: Mutex::new(()),
            is_lost: AtomicBool::new(false),
        }
    }

    /// The disk below.
    pub fn base(&self) -> &DiskDigest {
        &self.base
    }

    pub(crate) fn parent_size(&self) -> u64 {
        self.parent.size()
    }

    /// Blocks of 4 KiB that were written, be it with what was there before: runs in order.
    pub fn changed(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while let Some(run) = self.next_written(at) {
            at = run.end;
            runs.push(run);
        }
        runs
    }

    /// The same, in bytes.
    pub fn changed_bytes(&self) -> u64 {
        let bits = self.written.iter();
        let blocks: u64 = bits
            .map(|word| u64::from(word.load(Ordering::Acquire).count_ones()))
            .sum();
        blocks * BLOCK
    }

    /// Writes all of `bytes`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_range(self.size, offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset + bytes.len() as u64;
        let _alone = self.alone(offset..end);
        // Blocks that are written in part get the rest of what they were.
        let (first, last) = (offset / BLOCK, (end - 1) / BLOCK);
        if !offset.is_multiple_of(BLOCK) || end < self.block_end(first) {
            self.copy_up(first)?;
        }
        if last != first && end < self.block_end(last) {
            self.copy_up(last)?;
        }
        self.data.write_shared(offset, bytes)?;
        self.mark(first..last + 1);
        Ok(())
    }

    /// Makes a range read as zero, and gives back the room that it took.
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let first = offset.next_multiple_of(BLOCK).min(end);
        let last = match end == self.size {
            true => end,
            false => (end / BLOCK * BLOCK).max(first),
        };
        self.write(offset, &ZEROS[..(first - offset) as usize])?;
        if first < last {
            let _alone = self.alone(first..last);
            self.data.zero_shared(first, last - first)?;
            self.mark(first / BLOCK..last.div_ceil(BLOCK));
        }
        self.write(last, &ZEROS[..(end - last) as usize])
    }

    /// Waits until all that was written is durable.
    pub fn flush(&self) -> io::Result<()> {
        let _alone = lock(&self.flushing);
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(io::Error::other("an earlier flush failed"));
        }
        let pages: Vec<usize> = {
            let mut unsaved = lock(&self.unsaved);
            let numbered = unsaved.iter_mut().enumerate();
            numbered
                .filter_map(|(page, unsaved)| std::mem::take(unsaved).then_some(page))
                .collect()
        };
        // Read before the data is made durable: a bit that is added meanwhile must wait for the
        // next flush.
        let snapshot: Vec<(usize, Vec<u8>)> = pages
            .into_iter()
            .map(|page| (page, self.page(page)))
            .collect();
        let saved = self.data.sync_data().and_then(|()| {
            for (page, bytes) in &snapshot {
                let at = HEADER_LEN + page * PAGE_WORDS * 8;
                self.map.write_all_at(bytes, at as u64)?;
            }
            match snapshot.is_empty() {
                true => Ok(()),
                false => self.map.sync_data(),
            }
        });
        self.is_lost.fetch_or(saved.is_err(), Ordering::Relaxed);
        saved
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let end = ((page + 1) * PAGE_WORDS).min(self.written.len());
        self.written[page * PAGE_WORDS..end]
            .iter()
            .flat_map(|word| word.load(Ordering::Acquire).to_le_bytes())
            .collect()
    }

    fn block_end(&self, block: u64) -> u64 {
        ((block + 1) * BLOCK).min(self.size)
    }

    /// Brings a block up from the parent, unless it is here.
    fn copy_up(&self, block: u64) -> io::Result<()> {
        if self.is_written(block) {
            return Ok(());
        }
        let start = block * BLOCK;
        let mut bytes = vec![0; (self.block_end(block) - start) as usize];
        self.read_parent(start, &mut bytes)?;
        self.data.write_shared(start, &bytes)
    }

    fn read_parent(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let there = self.parent.size().saturating_sub(offset);
        let there = there.min(buf.len() as u64) as usize;
        buf[there..].fill(0);
        match there {
            0 => Ok(()),
            there => self.parent.read_at(offset, &mut buf[..there]),
        }
    }

    /// Keeps other writers out of a range.
    fn alone(&self, range: Range<u64>) -> Vec<MutexGuard<'_, ()>> {
        let (first, last) = (range.start / STRIPE_BYTES, (range.end - 1) / STRIPE_BYTES);
        let count = (last - first + 1).min(STRIPES as u64);
        let mut numbers: Vec<usize> = (first..first + count)
            .map(|stripe| (stripe % STRIPES as u64) as usize)
            .collect();
        // Always in this order, so that no two writers wait for each other.
        numbers.sort_unstable();
        numbers
            .into_iter()
            .map(|number| lock(&self.stripes[number]))
            .collect()
    }

    fn is_written(&self, block: u64) -> bool {
        let word = self.written[(block / PER_WORD) as usize].load(Ordering::Acquire);
        word >> (block % PER_WORD) & 1 == 1
    }

    /// Blocks are here from now on. Their bytes were written before.
    fn mark(&self, blocks: Range<u64>) {
        let mut at = blocks.start;
        let mut pages = Vec::new();
        while at < blocks.end {
            let word = at / PER_WORD;
            let end = ((word + 1) * PER_WORD).min(blocks.end);
            let bits = (u64::MAX >> (PER_WORD - (end - at))) << (at % PER_WORD);
            let before = self.written[word as usize].fetch_or(bits, Ordering::AcqRel);
            let page = word as usize / PAGE_WORDS;
            if before & bits != bits && pages.last() != Some(&page) {
                pages.push(page);
            }
            at = end;
        }
        if !pages.is_empty() {
            let mut unsaved = lock(&self.unsaved);
            for page in pages {
                unsaved[page] = true;
            }
        }
    }

    /// The next run of written blocks that ends after `block`, cut off before it.
    fn next_written(&self, block: u64) -> Option<Range<u64>> {
        let start = self.find(block, |word| word)?;
        let end = self.find(start, |word| !word);
        let blocks = self.size.div_ceil(BLOCK);
        Some(start..end.unwrap_or(blocks).min(blocks))
    }

    /// The first block from `block` on whose bit is set in what `see` makes of its word.
    fn find(&self, block: u64, see: impl Fn(u64) -> u64) -> Option<u64> {
        let first = (block / PER_WORD) as usize;
        let mut mask = u64::MAX << (block % PER_WORD);
        for (number, word) in self.written.iter().enumerate().skip(first) {
            let bits = see(word.load(Ordering::Acquire)) & mask;
            if bits != 0 {
                return Some(number as u64 * PER_WORD + u64::from(bits.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Calls `each` with the parts of a range, and whether they are here.
    fn parts(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(bool, Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let block = at / BLOCK;
            let is_here = self.is_written(block);
            let until = match is_here {
                true => self.find(block, |word| !word),
                false => self.find(block, |word| word),
            };
            let end = until.map_or(range.end, |until| (until * BLOCK).min(range.end));
            each(is_here, at..end)?;
            at = end;
        }
        Ok(())
    }
}

impl ReadAt for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len())?;
        let end = offset + buf.len() as u64;
        self.parts(offset..end, |is_here, part| {
            let into = &mut buf[(part.start - offset) as usize..(part.end - offset) as usize];
            match is_here {
                true => self.data.read_at(part.start, into),
                false => self.read_parent(part.start, into),
            }
        })
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = offset;
        while at < self.size {
            let below = match at < self.parent.size() {
                true => self.parent.next_data(at)?,
                false => None,
            };
            let above = self.next_written(at / BLOCK);
            let above = above.map(|run| (run.start * BLOCK).max(at)..run.end * BLOCK);
            let Some(above) = above else {
                return Ok(below);
            };
            if let Some(below) = below.filter(|below| below.start < above.start) {
                return Ok(Some(below.start..below.end.min(above.start)));
            }
            // Zeros that were written are holes in the file.
            let until = above.end.min(self.size);
            let data = self.data.next_data(above.start)?;
            if let Some(data) = data.filter(|data| data.start < until) {
                return Ok(Some(data.start..data.end.min(until)));
            }
            at = until;
        }
        Ok(None)
    }
}

impl Export for Overlay {
    fn description(&self) -> String {
        format!("changes to {}", self.base)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        let Some(end) = offset.checked_add(buf.len() as u64) else {
            return false;
        };
        let there = self.parent.size();
        let mut is_ready = end <= self.size;
        let read = is_ready.then(|| {
            self.parts(offset..end, |is_here, part| {
                let into = &mut buf[(part.start - offset) as usize..(part.end - offset) as usize];
                match is_here {
                    true => self.data.read_at(part.start, into),
                    false if part.end <= there => {
                        is_ready &= self.parent.read_ready(part.start, into);
                        Ok(())
                    }
                    false => self.read_parent(part.start, into),
                }
            })
        });
        is_ready && matches!(read, Some(Ok(())))
    }

    fn attached(&self) {
        self.parent.attached();
    }

    fn load(&self, offset: u64, len: u64) -> io::Result<()> {
        let there = self.parent.size().saturating_sub(offset).min(len);
        self.parent.load(offset, there)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Overlay::write(self, offset, bytes)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        Overlay::zero(self, offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        Overlay::flush(self)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn map_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

fn words(size: u64) -> usize {
    size.div_ceil(BLOCK).div_ceil(PER_WORD) as usize
}

fn check_size(size: u64, parent: u64) -> Result<(), OverlayError> {
    let limit = MAX_DISK_BYTES;
    if size > limit {
        return Err(OverlayError::TooLarge { size, limit });
    }
    match size < parent {
        true => Err(OverlayError::TooSmall { size, parent }),
        false => Ok(()),
    }
}

fn header(base: &DiskDigest, size: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(base.as_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    let check = blake3::derive_key(CHECK_CONTEXT, &bytes);
    bytes.extend_from_slice(&check);
    bytes.resize(HEADER_LEN, 0);
    bytes
}

fn read_header(bytes: &[u8]) -> Result<(DiskDigest, u64), &'static str> {
    let mut reader = Reader::new(bytes);
    if reader.take(8)? != MAGIC {
        return Err("it is not the map of an overlay");
    }
    if (reader.u32()?, reader.u32()?) != (VERSION, 0) {
        return Err("it has an unknown version");
    }
    let (base, size) = (DiskDigest::from_bytes(reader.array()?), reader.u64()?);
    match header(&base, size) == bytes {
        true => Ok((base, size)),
        false => Err("its checksum is wrong"),
    }
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OverlayError + use<> {
    let path = path.to_owned();
    move |source| OverlayError::File {
        doing,
        path,
        source,
    }
}
