//! The parts of a disk that start it: GRUB for BIOS and for UEFI, the EFI system partition, and the
//! blank root file system. Host tools with every input fixed; nothing is mounted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::layout::HybridLayout;
use process::Command;

use super::SourceError;
use super::content::ImageIds;

const TOOL_DEADLINE: Duration = Duration::from_secs(120);
const BOOT_IMAGE: &str = "/usr/lib/grub/i386-pc/boot.img";
/// All that the start needs, built in: no module is read from the disk.
const MODULES: [&str; 9] = [
    "part_gpt",
    "ext2",
    "search",
    "search_fs_uuid",
    "linux",
    "normal",
    "configfile",
    "boot",
    "echo",
];
const COPY_PIECE: usize = 1 << 20;

/// Features of the root file system. The host's own defaults are not asked.
const MKE2FS_CONFIG: &str = "\
[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384

[fs_types]
ext4 = {
features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
";

fn tool(name: &str, epoch: i64) -> Command {
    Command::new(name)
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .deadline(TOOL_DEADLINE)
}

/// GRUB's images: the first sector's code, the core for BIOS, and the program for UEFI.
pub(crate) struct Grub {
    pub boot_image: Vec<u8>,
    pub core_image: Vec<u8>,
    pub efi_program: PathBuf,
}

pub(crate) async fn grub(work: &Path, ids: &ImageIds, epoch: i64) -> Result<Grub, SourceError> {
    let early = work.join("early.cfg");
    let text = format!(
        "search.fs_uuid {} root\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n",
        ids.root
    );
    std::fs::write(&early, text).map_err(SourceError::file("write", &early))?;
    let make = |format: &'static str, out: PathBuf, more: &'static [&'static str]| {
        tool("grub-mkimage", epoch)
            .args(["-O", format, "-p", "/boot/grub", "-c"])
            .arg(&early)
            .arg("-o")
            .arg(out)
            .args(more)
            .args(MODULES)
    };
    let (efi_program, core) = (work.join("BOOTX64.EFI"), work.join("core.img"));
    make("x86_64-efi", efi_program.clone(), &[]).run().await?;
    make("i386-pc", core.clone(), &["biosdisk"]).run().await?;
    let boot = Path::new(BOOT_IMAGE);
    Ok(Grub {
        boot_image: std::fs::read(boot).map_err(SourceError::file("read", boot))?,
        core_image: std::fs::read(&core).map_err(SourceError::file("read", &core))?,
        efi_program,
    })
}

/// An EFI system partition with one program in it, as a file of its own.
pub(crate) async fn esp(
    work: &Path,
    program: &Path,
    ids: &ImageIds,
    size: u64,
    epoch: i64,
) -> Result<PathBuf, SourceError> {
    let image = work.join("esp.img");
    let file = File::create(&image).map_err(SourceError::file("make", &image))?;
    file.set_len(size)
        .map_err(SourceError::file("size", &image))?;
    let number = format!("{:08x}", ids.esp);
    tool("mkfs.vfat", epoch)
        .args(["--invariant", "-F", "32", "-n", "ESP", "-i", &number])
        .arg(&image)
        .run()
        .await?;
    let folders = ["::/EFI", "::/EFI/BOOT"];
    tool("mmd", epoch)
        .arg("-i")
        .arg(&image)
        .args(folders)
        .run()
        .await?;
    // mcopy -m keeps the file's own time, so that has to be fixed first.
    let time = std::time::UNIX_EPOCH + Duration::from_secs(epoch.unsigned_abs());
    let opened = File::options().write(true).open(program);
    opened
        .and_then(|file| file.set_modified(time))
        .map_err(SourceError::file("set the time of", program))?;
    tool("mcopy", epoch)
        .args(["-m", "-i"])
        .arg(&image)
        .arg(program)
        .arg("::/EFI/BOOT/BOOTX64.EFI")
        .run()
        .await?;
    Ok(image)
}

/// Writes an empty ext4 into the root partition of `raw`.
pub(crate) async fn blank_root(
    work: &Path,
    raw: &Path,
    layout: &HybridLayout,
    ids: &ImageIds,
    epoch: i64,
) -> Result<(), SourceError> {
    let config = work.join("mke2fs.conf");
    std::fs::write(&config, MKE2FS_CONFIG).map_err(SourceError::file("write", &config))?;
    let (root, uuid) = (layout.root(), ids.root);
    let extended = format!(
        "offset={},hash_seed={uuid},nodiscard,lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0",
        root.start
    );
    tool("mke2fs", epoch)
        .env("MKE2FS_CONFIG", &config)
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
        .args([
            "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", "root",
        ])
        .args(["-O", "^metadata_csum_seed,^orphan_file"])
        .args(["-U", &uuid.to_string(), "-E", &extended])
        .arg(raw)
        .arg(format!("{}k", (root.end - root.start) / 1024))
        .run()
        .await?;
    Ok(())
}

/// Copies `from` to `at` in `to`, leaving holes where there is nothing.
pub(crate) fn copy_sparse(from: &Path, to: &mut File, at: u64) -> Result<(), SourceError> {
    let fail = SourceError::file("copy", from);
    let copied = File::open(from).and_then(|mut source| {
        let mut piece = vec![0; COPY_PIECE];
        let mut offset = at;
        loop {
            let got = source.read(&mut piece)?;
            if got == 0 {
                return Ok(());
            }
            if !disk::is_zero(&piece[..got]) {
                to.seek(SeekFrom::Start(offset))?;
                to.write_all(&piece[..got])?;
            }
            offset += got as u64;
        }
    });
    copied.map_err(fail)
}
