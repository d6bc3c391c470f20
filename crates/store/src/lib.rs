//! Where disks are kept: each distinct block once, compressed and sealed, in one place.
//!
//! A [`Store`] is one dedup domain at one place, such as one zone of one region. It holds bytes
//! by the digest of the disk they belong to and knows nothing of names, tenants or versions: who
//! may see a digest is decided before it reaches this crate. The format is in `docs/FORMAT.md`.
//!
//! Every call blocks; async callers move it to a thread for blocking work.

mod bulk;
mod bundle;
mod cache;
mod checkout;
mod codec;
mod collect;
mod delta;
mod domain;
mod error;
mod file;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod image_file;
mod index;
mod ingest;
pub mod keys;
mod manifest;
mod mend;
mod open;
mod outline;
mod pack;
mod parallel;
pub mod place;
pub mod region;
mod replicate;
mod seal;
mod section;
mod serve;
mod session;
mod sidecar;
mod similar;
#[cfg(feature = "simulate")]
pub mod simulate;
mod source;
mod store;
mod unbundle;
mod verify;
mod view;
mod walk;

pub use bundle::{Bundled, is_bundle};
pub use cache::{CacheStats, DEFAULT_CACHE_BYTES, FrameCache};
pub use checkout::{Checkout, CheckoutKind, SharedWatch};
pub use collect::{Collect, Collected};
pub use domain::{Domain, DomainId};
pub use error::StoreError;
pub use file::FileDisk;
pub use frame::{FRAME_BLOCKS, FrameId};
pub use header::{KeyInfo, KeyState, StoreId};
pub use image_file::ImageFile;
pub use index::IndexUse;
pub use ingest::{Ingested, Watch};
pub use keys::{KeyError, KeyFile, KeyService, Keys};
pub use manifest::{BranchRef, MAX_DISK_BYTES, Manifest};
pub use mend::{Mended, PackCheck};
pub use open::taken;
pub use pack::PackFooter;
pub use replicate::{Moved, Progress};
pub use section::{Section, SectionRef, UsedFrame};
pub use serve::{Overlay, OverlayError, ServedDisk, Serving, Trace, TraceRecorder};
pub use sidecar::sidecar_path;
pub use source::FrameSource;
pub use store::{DEFAULT_INDEX_BYTES, DiskInfo, DiskSizes, Store, StoreOptions, Usage};
pub use unbundle::Unbundled;
pub use verify::{DamagedFrame, VerifyReport};
pub use view::{Extent, StoredDisk};
