//! Where disks are kept: each distinct block once, compressed, in one folder.
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
mod error;
mod file;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod image_file;
mod index;
mod ingest;
mod manifest;
mod mend;
mod open;
mod pack;
mod parallel;
pub mod place;
pub mod region;
mod replicate;
mod serve;
mod session;
mod sidecar;
mod source;
mod store;
mod verify;
mod view;

pub use bundle::{Bundled, Unbundled, is_bundle};
pub use cache::{CacheStats, DEFAULT_CACHE_BYTES, FrameCache};
pub use checkout::{Checkout, CheckoutKind, SharedWatch};
pub use collect::{Collect, Collected};
pub use error::StoreError;
pub use file::FileDisk;
pub use frame::{FRAME_BLOCKS, FrameId};
pub use image_file::ImageFile;
pub use ingest::{Ingested, Watch};
pub use manifest::{MAX_DISK_BYTES, Manifest, UsedFrame};
pub use mend::{Mended, PackCheck};
pub use pack::PackFooter;
pub use replicate::{Moved, Progress};
pub use serve::{Overlay, OverlayError, ServedDisk, Serving, Trace, TraceRecorder};
pub use sidecar::sidecar_path;
pub use source::FrameSource;
pub use store::{DiskInfo, Store, StoreOptions, Usage};
pub use verify::{DamagedFrame, VerifyReport};
pub use view::StoredDisk;
