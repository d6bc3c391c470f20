//! `tattoo`: the record in a disk image, read without mounting it. What a machine says, and whether a record is the one
//! that was signed, is asked of the server by `cli`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cli::args::Scope;
use cli::args::tattoo::ReadTattoo;
use disk::image::{Image, Limits};
use factory::tattoo;
use store::FileDisk;

use crate::offline::Failure;

/// The largest disk that is looked into, unless another limit is given.
const SIZE_GIB_MAX: u64 = 32 << 10;

#[derive(Debug, Subcommand)]
pub enum TattooCommand {
    /// Print the record of a disk image or of a machine, and whether it is the one that the gallery signed
    #[command(after_help = "Examples:
  bullion tattoo read disk.qcow2
  bullion tattoo read web-1
  bullion tattoo read disk.vhd --version shop/web/1.0.0 --signed
  bullion tattoo read disk.raw --output json

A disk is a raw, qcow2, VHD, VHDX or VMDK file, told by its content; nothing is mounted. The record
of Linux is in /etc/bullion-image, that of Windows in HKEY_LOCAL_MACHINE\\SOFTWARE\\Bullion\\Image. Anything
that is no file is a machine: its record is the one that was read inside it when it was deployed.

The record is held against the signed statement `tattoo` of the version that the machine was made
from or that the record names, or of the one given by --version. A good one says where the image
comes from, not that nothing else in the disk was changed. Without a server, or for a version
without statements, it is printed unchecked.

Exit code: 0 if it was read and nothing speaks against it, 1 if it cannot be read (with --signed:
or not be checked), 3 if it is not what was signed or the signature is bad")]
    Read {
        /// Disk image file, or machine by name or resource id
        #[arg(value_name = "DISK|VM")]
        what: String,
        /// `gallery/definition/version`, or a resource id, to hold it against
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        /// Fail unless the record could be checked
        #[arg(long)]
        signed: bool,
        #[command(flatten)]
        scope: Scope,
    },
}

/// Reads what is in a file; the rest is a question to the server.
pub fn run(command: TattooCommand) -> Result<ReadTattoo, Failure> {
    let TattooCommand::Read {
        what,
        version,
        signed,
        scope,
    } = command;
    let path = PathBuf::from(&what);
    let record = match path.is_file() {
        true => Some(in_disk(&path)?),
        false => None,
    };
    Ok(ReadTattoo {
        what,
        record,
        version,
        must_be_signed: signed,
        scope,
    })
}

fn in_disk(path: &Path) -> Result<std::collections::BTreeMap<String, String>, Failure> {
    let what = || format!("cannot read the tattoo of `{}`", path.display());
    let file = FileDisk::open(path).map_err(|error| Failure::new(what(), error))?;
    let limits = Limits {
        max_bytes: SIZE_GIB_MAX << 30,
    };
    let image = Image::open(file, limits).map_err(|error| Failure::new(what(), error))?;
    let found = tattoo::read(&image).map_err(|error| Failure::new(what(), error))?;
    let found = found.ok_or_else(|| {
        let none = format!(
            "there is neither {} nor {} in `{}`",
            tattoo::TATTOO_PATH,
            tattoo::TATTOO_KEY,
            path.display()
        );
        Failure::plain(none).hint("images that Bullion has built have one")
    })?;
    tattoo::lines(&found).map_err(|error| Failure::new(what(), error))
}
