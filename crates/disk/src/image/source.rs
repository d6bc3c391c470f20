//! The bytes of an image, and a small cache of those pages that hold tables.
//!
//! Tables are looked up here, entry by entry. However large a header says a table is, no more
//! memory is used than [`CACHED_PAGES`] pages.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use super::error::ImageError;
use super::{Format, ReadAt};

const PAGE: u64 = 4096;
/// 4 MiB for each open image.
const CACHED_PAGES: usize = 1024;

type Page = [u8; PAGE as usize];

/// An image that is being read.
pub(super) struct Source {
    bytes: Arc<dyn ReadAt>,
    size: u64,
    format: Format,
    pages: Mutex<Pages>,
}

impl Source {
    pub(super) fn new(bytes: Arc<dyn ReadAt>, format: Format) -> Source {
        let size = bytes.size();
        Source {
            bytes,
            size,
            format,
            pages: Mutex::default(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn bytes(&self) -> &dyn ReadAt {
        &*self.bytes
    }

    pub(super) fn damaged(&self, what: &'static str) -> ImageError {
        ImageError::Damaged {
            format: self.format,
            what,
        }
    }

    pub(super) fn refused(&self, what: &'static str) -> ImageError {
        ImageError::Refused {
            format: self.format,
            what,
        }
    }

    /// That a range lies within the file; `what` says so if it does not.
    pub(super) fn holds(
        &self,
        offset: u64,
        len: u64,
        what: &'static str,
    ) -> Result<(), ImageError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(self.damaged(what)),
        }
    }

    /// `N` bytes of a header or a table.
    pub(super) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], ImageError> {
        let mut array = [0; N];
        self.fill(offset, &mut array)?;
        Ok(array)
    }

    /// Fills `buf` with bytes of headers and tables.
    pub(super) fn fill(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        self.holds(offset, buf.len() as u64, "it ends within a table")?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let step = (PAGE as usize - within).min(buf.len() - done);
            let page = self.page(at / PAGE)?;
            buf[done..done + step].copy_from_slice(&page[within..within + step]);
            done += step;
        }
        Ok(())
    }

    pub(super) fn be32(&self, offset: u64) -> Result<u32, ImageError> {
        self.array(offset).map(u32::from_be_bytes)
    }

    pub(super) fn be64(&self, offset: u64) -> Result<u64, ImageError> {
        self.array(offset).map(u64::from_be_bytes)
    }

    pub(super) fn le16(&self, offset: u64) -> Result<u16, ImageError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    pub(super) fn le32(&self, offset: u64) -> Result<u32, ImageError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    pub(super) fn le64(&self, offset: u64) -> Result<u64, ImageError> {
        self.array(offset).map(u64::from_le_bytes)
    }

    fn page(&self, number: u64) -> Result<Arc<Page>, ImageError> {
        if let Some(page) = self.pages().map.get(&number) {
            return Ok(Arc::clone(page));
        }
        let mut page = [0; PAGE as usize];
        let start = number * PAGE;
        let len = (self.size - start).min(PAGE) as usize;
        self.bytes
            .read_at(start, &mut page[..len])
            .map_err(ImageError::Read)?;
        let page = Arc::new(page);
        self.pages().put(number, Arc::clone(&page));
        Ok(page)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

/// The page that came first goes first: tables are walked in order.
#[derive(Default)]
struct Pages {
    map: HashMap<u64, Arc<Page>>,
    order: VecDeque<u64>,
}

impl Pages {
    fn put(&mut self, number: u64, page: Arc<Page>) {
        if self.map.insert(number, page).is_some() {
            return;
        }
        self.order.push_back(number);
        if self.order.len() > CACHED_PAGES
            && let Some(oldest) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
    }
}
