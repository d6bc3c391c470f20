//! What can go wrong in a store. A variant names what was being done.

use std::io;
use std::path::PathBuf;

use disk::DiskDigest;

use crate::codec::PACKS;
use crate::domain::DomainId;
use crate::frame::FrameId;
use crate::keys::KeyError;
use crate::seal::CipherError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("open the store in {folder}")]
    Open {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the store in {folder} is open in another process")]
    InUse { folder: PathBuf },
    #[error("write {name} to the store")]
    Put {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("remove {name} from the store")]
    Delete {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("read {name} from the store")]
    Get {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("list {prefix} in the store")]
    List {
        prefix: String,
        #[source]
        source: io::Error,
    },
    #[error("the store's file {name} is damaged: {what}")]
    Damaged { name: String, what: &'static str },
    #[error("frame {frame} in {pack} is damaged: {what}")]
    DamagedFrame {
        frame: FrameId,
        pack: String,
        what: &'static str,
    },
    #[error("frame {frame} of disk {disk} is in no intact pack")]
    MissingFrame { frame: FrameId, disk: DiskDigest },
    #[error("frame {frame} is in no intact pack any more")]
    LostFrame { frame: FrameId },
    #[error("the store holds no disk {0}")]
    UnknownDisk(DiskDigest),
    #[error("disk {expected} reads back as {found}")]
    WrongContent {
        expected: DiskDigest,
        found: DiskDigest,
    },
    #[error("a disk of {size} bytes is over the limit of {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("block {block} was changed outside a disk of {size} bytes")]
    ChangeOutside { block: u64, size: u64 },
    #[error("read the disk to be stored")]
    ReadDisk(#[source] io::Error),
    #[error("seal or open what is stored")]
    Seal(#[from] CipherError),
    #[error("the store is locked: domain {domain}: {why}")]
    Locked { domain: DomainId, why: String },
    #[error("unwrap or wrap the secret of the store")]
    Keys(#[from] KeyError),
    #[error("a new store is encrypted and has no key")]
    NoKeys,
    #[error("the secret is another domain's")]
    WrongSecret,
    #[error("the store is not encrypted and has no keys")]
    NotEncrypted,
    #[error("compress a frame")]
    Compress(#[source] io::Error),
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("stopped before it was done")]
    Stopped,
    #[error("there is a store in {folder} already")]
    IsStore { folder: PathBuf },
    #[error("there is no store in {folder}")]
    NoStore { folder: PathBuf },
    #[error("read the bundle")]
    ReadBundle(#[source] io::Error),
    #[error("write the bundle")]
    WriteBundle(#[source] io::Error),
    #[error("open the bundle: {what}")]
    BundleKey { what: &'static str },
    #[error("the bundle is damaged: {what}")]
    DamagedBundle { what: &'static str },
    /// A helper thread stopped first; its own error is the one that is returned.
    #[error("the writer of packs stopped")]
    WriterStopped,
}

impl StoreError {
    /// Whether room is all that was missing, so that the same call may succeed later.
    pub fn is_no_space(&self) -> bool {
        match self {
            StoreError::Put { source, .. } | StoreError::File { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            _ => false,
        }
    }
}

impl StoreError {
    /// The frame that cannot be read because its bytes are not there or not what they were.
    pub fn bad_frame(&self) -> Option<FrameId> {
        match self {
            StoreError::DamagedFrame { frame, .. }
            | StoreError::MissingFrame { frame, .. }
            | StoreError::LostFrame { frame } => Some(*frame),
            _ => None,
        }
    }

    /// The pack that is not there, shorter than it was, or not what it was.
    pub fn bad_pack(&self) -> Option<&str> {
        match self {
            StoreError::Get { name, .. } if self.is_gone() => Some(name),
            StoreError::Damaged { name, .. } => Some(name),
            _ => None,
        }
        .map(String::as_str)
        .filter(|name| name.starts_with(PACKS))
    }

    /// Whether the file that was to be read is not there, or shorter than it was.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(
            self,
            StoreError::Get { source, .. }
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
        )
    }

    /// Whether the file that was to be read is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Get { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl From<StoreError> for io::Error {
    /// For readers of a stored disk, which speak `io::Error`. The store's error is kept inside.
    fn from(error: StoreError) -> io::Error {
        let kind = match error {
            StoreError::Damaged { .. }
            | StoreError::DamagedFrame { .. }
            | StoreError::MissingFrame { .. }
            | StoreError::LostFrame { .. }
            | StoreError::WrongContent { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
