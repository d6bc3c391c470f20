//! A stored disk as an image file for other programs, in whatever part of it is asked for. Nothing
//! is copied aside: each part is made when it is sent, and is the same whenever that is.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use disk::export::{ExportError, Options, Plan, Sink, plan};
use disk::image::Format;
use disk::{DiskDigest, ReadAt};
use store::StoreError;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;
use wire::Location;

use crate::factory::Factory;

/// Raised whenever the same disk would give other bytes: a download that was begun before must not
/// go on after it.
const REPRESENTATION: u32 = 1;
/// What is handed on at a time, and how much of it may wait for a slow reader.
const PIECE_BYTES: usize = 256 << 10;
const PIECES_WAITING: usize = 4;
/// Parts that are made at a time; who comes later waits.
const MAX_RUNNING: usize = 8;
/// Images whose layout is remembered, so that a download need not compress a disk again to go on.
const MAX_REMEMBERED: usize = 8;

/// A format that a disk is handed out in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Raw,
    Qcow2,
    Vhd,
    VhdDynamic,
    Vhdx,
}

impl ImageFormat {
    const ALL: [ImageFormat; 5] = [
        ImageFormat::Raw,
        ImageFormat::Qcow2,
        ImageFormat::Vhd,
        ImageFormat::VhdDynamic,
        ImageFormat::Vhdx,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vhd => "vhd",
            ImageFormat::VhdDynamic => "vhd-dynamic",
            ImageFormat::Vhdx => "vhdx",
        }
    }

    /// All names, for messages.
    pub fn names() -> String {
        ImageFormat::ALL.map(ImageFormat::name).join(", ")
    }

    fn format(self) -> Format {
        match self {
            ImageFormat::Raw => Format::Raw,
            ImageFormat::Qcow2 => Format::Qcow2,
            ImageFormat::Vhd => Format::VhdFixed,
            ImageFormat::VhdDynamic => Format::VhdDynamic,
            ImageFormat::Vhdx => Format::Vhdx,
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not a format that disks are handed out in.
#[derive(Debug, thiserror::Error)]
#[error("there is no format of that name")]
pub struct UnknownFormat;

impl FromStr for ImageFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let mut all = ImageFormat::ALL.into_iter();
        all.find(|format| format.name().eq_ignore_ascii_case(text))
            .ok_or(UnknownFormat)
    }
}

/// Why there is no image of a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("no region holds the disk {0} whole")]
    NoHolder(DiskDigest),
    #[error("open the disk")]
    Store(#[from] StoreError),
    #[error("find out how the image will be")]
    Plan(#[from] ExportError),
    #[error("a worker thread ended before its work")]
    Worker(#[source] tokio::task::JoinError),
}

/// An image that has not been written anywhere. Clones are the same image.
#[derive(Clone)]
pub struct ExportedImage(Arc<Inner>);

struct Inner {
    disk: Arc<dyn ReadAt>,
    digest: DiskDigest,
    format: ImageFormat,
    plan: Plan,
    running: Arc<Semaphore>,
}

impl fmt::Debug for ExportedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExportedImage")
            .field(&self.0.digest)
            .field(&self.0.format)
            .finish()
    }
}

impl ExportedImage {
    /// Blocks; for qcow2 the whole disk is compressed once to learn its length.
    pub fn new(
        disk: Arc<dyn ReadAt>,
        digest: DiskDigest,
        format: ImageFormat,
        running: Arc<Semaphore>,
    ) -> Result<ExportedImage, ImageError> {
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
        let options = Options {
            format: format.format(),
            id: Uuid::from_bytes(id),
        };
        let plan = plan(&*disk, &options, &|_| true)?;
        Ok(ExportedImage(Arc::new(Inner {
            disk,
            digest,
            format,
            plan,
            running,
        })))
    }

    /// The disk that is in it.
    pub fn digest(&self) -> &DiskDigest {
        &self.0.digest
    }

    /// Bytes of the image.
    pub fn bytes(&self) -> u64 {
        self.0.plan.image_bytes()
    }

    /// Names these very bytes. Compressed ones depend on the program that compresses.
    pub fn tag(&self) -> String {
        let (digest, format) = (self.0.digest.to_hex(), self.0.format);
        let program = env!("CARGO_PKG_VERSION");
        format!("{digest}.{format}.{REPRESENTATION}.{program}")
    }

    /// A part of the image, piece by piece. It is made as fast as it is taken; when the receiver is
    /// dropped it ends.
    pub async fn read(&self, range: Range<u64>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
        let (send, receive) = mpsc::channel(PIECES_WAITING);
        let inner = Arc::clone(&self.0);
        let turn = Arc::clone(&inner.running).acquire_owned().await.ok();
        tokio::task::spawn_blocking(move || inner.write(range, send, turn));
        receive
    }
}

impl Inner {
    fn write(
        &self,
        range: Range<u64>,
        send: mpsc::Sender<io::Result<Vec<u8>>>,
        _turn: Option<OwnedSemaphorePermit>,
    ) {
        let mut pieces = Pieces {
            send,
            piece: Vec::with_capacity(PIECE_BYTES),
        };
        let written = self.plan.write(&*self.disk, range, &mut pieces, &|_| true);
        let ended = match written {
            Ok(()) => pieces.flush(),
            // The receiver is gone, and knows.
            Err(ExportError::Write(_)) => return,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = ended {
            tracing::warn!(
                digest = %self.digest,
                error = &error as &dyn std::error::Error,
                "an image is cut short"
            );
            // Cut off is what the other end must see; a short body with a good end would lie.
            let _ = pieces.send.blocking_send(Err(error));
        }
    }
}

/// A sink that hands on pieces.
struct Pieces {
    send: mpsc::Sender<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
}

impl Pieces {
    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = self.send.blocking_send(Ok(piece));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Sink for Pieces {
    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }
}

/// Which image it is: of which disk, from where (of one tenant's domain, or of what all share), in which format.
type Exported = (DiskDigest, Vec<String>, ImageFormat);
type Making = Arc<OnceCell<ExportedImage>>;

/// The images that were asked for last.
pub(crate) struct Exports {
    recent: Mutex<VecDeque<(Exported, Making)>>,
    running: Arc<Semaphore>,
}

impl Default for Exports {
    fn default() -> Self {
        Exports {
            recent: Mutex::default(),
            running: Arc::new(Semaphore::new(MAX_RUNNING)),
        }
    }
}

impl Exports {
    /// The place of an image; the same for all who ask for it.
    fn place(&self, digest: &DiskDigest, places: &[Location], format: ImageFormat) -> Making {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let places = places.iter().map(Location::folded).collect();
        let wanted: Exported = (*digest, places, format);
        let known = recent
            .iter()
            .position(|known| known.0 == wanted)
            .and_then(|at| recent.remove(at));
        let known = known.unwrap_or_else(|| (wanted, Making::default()));
        let making = Arc::clone(&known.1);
        recent.push_back(known);
        if recent.len() > MAX_REMEMBERED {
            recent.pop_front();
        }
        making
    }
}

impl Exports {
    fn forget(&self, digest: &DiskDigest, places: &[Location]) {
        let places: Vec<String> = places.iter().map(Location::folded).collect();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(known, _)| (&known.0, &known.1) != (digest, &places));
    }
}

impl Factory {
    /// A disk as an image, from whichever of `places` holds it, or, where none is named, whichever region. Finding out how long a qcow2 image will
    /// be takes as long as compressing the disk; that goes on when the caller does not wait for it,
    /// and is found by the next one.
    pub async fn export(
        self: &Arc<Self>,
        digest: &DiskDigest,
        places: &[Location],
        format: ImageFormat,
    ) -> Result<ExportedImage, ImageError> {
        if !places.is_empty() {
            self.need_readable(digest, places).await?;
        }
        let making = self.exports.place(digest, places, format);
        let (factory, digest, places) = (Arc::clone(self), *digest, places.to_vec());
        let made = tokio::spawn(async move {
            let make = || factory.make_image(digest, places, format);
            making.get_or_try_init(make).await.cloned()
        });
        made.await.map_err(ImageError::Worker)?
    }

    /// An image that was made before keeps blocks in memory; without its key it is nobody's all the same.
    async fn need_readable(
        self: &Arc<Self>,
        digest: &DiskDigest,
        places: &[Location],
    ) -> Result<(), ImageError> {
        let (factory, digest, places) = (Arc::clone(self), *digest, places.to_vec());
        let look = move || {
            let regions = &factory.regions;
            let mut holders = places.iter();
            let holder = holders.find_map(|place| regions.holder(place, &digest));
            let opened = match holder {
                Some(holder) => holder.disk(&digest).map(drop).map_err(ImageError::from),
                None => Err(ImageError::NoHolder(digest)),
            };
            if opened.is_err() {
                factory.exports.forget(&digest, &places);
            }
            opened
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(ImageError::Worker)?
    }

    async fn make_image(
        self: &Arc<Self>,
        digest: DiskDigest,
        places: Vec<Location>,
        format: ImageFormat,
    ) -> Result<ExportedImage, ImageError> {
        let factory = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            let regions = &factory.regions;
            let places = match places.is_empty() {
                true => regions.names(),
                false => places,
            };
            let mut holders = places.iter();
            let holder = holders.find_map(|place| regions.holder(place, &digest));
            let holder = holder.ok_or(ImageError::NoHolder(digest))?;
            let disk = Arc::new(holder.disk(&digest)?);
            ExportedImage::new(disk, digest, format, Arc::clone(&factory.exports.running))
        });
        made.await.map_err(ImageError::Worker)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(image: &ExportedImage, range: Range<u64>) -> Vec<u8> {
        let mut receive = image.read(range).await;
        let mut bytes = Vec::new();
        while let Some(piece) = receive.recv().await {
            bytes.extend(piece.unwrap());
        }
        bytes
    }

    #[tokio::test]
    async fn a_part_is_the_part_of_the_whole() {
        let disk: Arc<Vec<u8>> = Arc::new((0..3_000_000u32).map(|at| (at / 999) as u8).collect());
        let digest = disk::digest_of(&disk).unwrap().0;
        for format in ImageFormat::ALL {
            assert_eq!(format.name().parse::<ImageFormat>().unwrap(), format);
            let disk = Arc::clone(&disk) as Arc<dyn ReadAt>;
            let image =
                ExportedImage::new(disk, digest, format, Arc::new(Semaphore::new(1))).unwrap();
            let whole = read(&image, 0..image.bytes()).await;
            assert_eq!(whole.len() as u64, image.bytes());
            let middle = image.bytes() / 3..image.bytes() / 2;
            let range = middle.start as usize..middle.end as usize;
            assert!(read(&image, middle).await == whole[range], "{format}");
            assert!(image.tag().contains(format.name()));
        }
        assert!("vmdk".parse::<ImageFormat>().is_err());
    }

    #[tokio::test]
    async fn who_stops_reading_gives_the_turn_back() {
        let disk: Arc<Vec<u8>> = Arc::new(vec![1; 8 << 20]);
        let digest = disk::digest_of(&disk).unwrap().0;
        let turns = Arc::new(Semaphore::new(1));
        let image = ExportedImage::new(disk, digest, ImageFormat::Raw, turns).unwrap();
        drop(image.read(0..image.bytes()).await);
        assert_eq!(read(&image, 5..6).await, [1]);
    }
}
