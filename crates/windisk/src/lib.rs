//! What a Windows disk holds, told from its bytes: files of NTFS, and keys and values of registry hives. It must not
//! open anything, write to a file system, or trust a single field: the disk may be anybody's.

mod bytes;
mod hive;
mod ntfs;
mod system;

/// What a hostile disk and a hostile hive are put through, for fuzzing only.
pub mod fuzzing;

pub use hive::{Hive, HiveError, Key, Value};
pub use ntfs::{NtfsError, Stream, Volume};
pub use system::{HIVE_BYTES_MAX, HiveFile, System, SystemError};
