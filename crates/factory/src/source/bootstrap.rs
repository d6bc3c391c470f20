//! Makes a whole disk from a pinned archive state: installs the packages into a tree, turns the
//! tree into an image's, and writes it with what starts it. Equal inputs give equal bytes, so
//! nothing here may depend on the clock, the time zone, the umask or the folder it works in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::layout::HybridLayout;
use disk::{ReadAt, WriteAt};
use process::{Command, ProcessError, Stream};

use super::archive::{ARCHITECTURE, PROXY_VARIABLES};
use super::content::{self, ImageIds};
use super::python::{COMPILE_AGAIN, STEADY_HASHES};
use super::{
    BaseInputs, BaseRequest, FetchError, LogLine, Pin, SourceError, Watch, boot, memory, watched,
};

/// Raised whenever equal inputs would give other bytes than before.
const RECIPE: &str = "debian-archive 3";
const INSTALL_DEADLINE: Duration = Duration::from_secs(45 * 60);
const GIB: u64 = 1 << 30;
/// Where apt keeps packages, in a tree.
const ARCHIVES: &str = "/var/cache/apt/archives";
/// Packages kept for the next time.
const MAX_DEBS: usize = 100_000;

/// Tells the kernel's hook to make no initrd. The one that it would make is made again, a fifth of all the work,
/// when the last package is configured.
const NO_INITRD: (&str, &str) = ("INITRD", "No");
/// Makes the one initrd, when all packages are there, and the links to it that the kernel's own script left out.
const MAKE_INITRD: &str = "for kernel in \"$1\"/boot/vmlinuz-*; do version=\"${kernel##*/vmlinuz-}\"; \
                           chroot \"$1\" env --unset=INITRD --unset=TMPDIR update-initramfs -c -k \"$version\"; \
                           chroot \"$1\" env --unset=INITRD linux-update-symlinks install \"$version\" \
                           \"/boot/vmlinuz-$version\"; done";

/// What a minimal system lacks to start as a machine of a cloud: an init, a kernel, a network, a
/// login, and what takes the machine's own data at the first start.
const PACKAGES: [&str; 20] = [
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "ifupdown",
    "initramfs-tools",
    "iproute2",
    "isc-dhcp-client",
    "kmod",
    "linux-image-cloud-amd64",
    "locales",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "zstd",
];

/// Packages of this machine whose version is in the bytes of the disk.
const TOOLS: [&str; 7] = [
    "dosfstools",
    "e2fsprogs",
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "mmdebstrap",
    "mtools",
];

/// The tools that make a disk, with their versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tools(Vec<(String, String)>);

impl Tools {
    pub(crate) async fn installed() -> Result<Tools, SourceError> {
        for program in [
            "mmdebstrap",
            "mke2fs",
            "grub-mkimage",
            "mkfs.vfat",
            "mmd",
            "mcopy",
        ] {
            process::find(program)?;
        }
        let output = Command::new("dpkg-query")
            .args(["-W", "-f", "${Package} ${Version}\n"])
            .args(TOOLS)
            .output()
            .await?;
        let text = output.stdout_text();
        let versions = text.lines().filter_map(|line| line.split_once(' '));
        Ok(Tools(
            versions
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .collect(),
        ))
    }
}

/// Where a bootstrap reads and works.
#[derive(Debug)]
pub(crate) struct Place {
    /// The pin's package lists.
    pub lists: PathBuf,
    /// Packages fetched before; shared between all builds.
    pub debs: PathBuf,
    /// An empty folder.
    pub work: PathBuf,
    /// How the archive is reached, as lines of an apt configuration.
    pub acquire: String,
}

pub(crate) fn inputs(pin: &Pin, request: &BaseRequest, tools: &Tools) -> BaseInputs {
    let mut inputs: BaseInputs = vec![
        ("recipe".to_owned(), RECIPE.to_owned()),
        ("product".to_owned(), product(pin)),
        ("state".to_owned(), pin.state.to_string()),
        ("sources".to_owned(), pin.sources_list()),
        ("epoch".to_owned(), pin.epoch.to_string()),
        ("packages".to_owned(), packages(pin).join(" ")),
        ("writer".to_owned(), ext4::writer_version()),
        ("disk-gib".to_owned(), request.disk_gib.to_string()),
    ];
    if let Some(other) = &pin.described {
        inputs.push(("name".to_owned(), other.name.clone()));
    }
    inputs.extend(
        tools
            .0
            .iter()
            .map(|(name, version)| (format!("tool {name}"), version.clone())),
    );
    inputs
}

/// What is installed beside the minimal system.
fn packages(pin: &Pin) -> Vec<&str> {
    match &pin.described {
        Some(other) => other.packages.iter().map(String::as_str).collect(),
        None => PACKAGES.to_vec(),
    }
}

fn product(pin: &Pin) -> String {
    format!(
        "{}:{}:{}",
        pin.image.publisher, pin.image.offer, pin.image.sku
    )
}

pub(crate) async fn run(
    pin: &Pin,
    request: &BaseRequest,
    place: &Place,
    log: LogLine,
) -> Result<PathBuf, SourceError> {
    let ids = ImageIds::of(&product(pin));
    let tar = install(pin, place, &log).await?;
    log("writing the disk");
    let raw = place.work.join("disk.raw");
    let layout = HybridLayout::new(u64::from(request.disk_gib) * GIB, ids.partitions)?;
    let file = File::create(&raw).map_err(SourceError::file("make", &raw))?;
    file.set_len(layout.size())
        .map_err(SourceError::file("size", &raw))?;
    boot::blank_root(&place.work, &raw, &layout, &ids, pin.epoch).await?;
    let grub = boot::grub(&place.work, &ids, pin.epoch).await?;
    let esp_size = layout.esp().end - layout.esp().start;
    let esp = boot::esp(&place.work, &grub.efi_program, &ids, esp_size, pin.epoch).await?;
    let (pin, path) = (pin.clone(), raw.clone());
    let written = tokio::task::spawn_blocking(move || {
        let mut device = RawFile::open(&path)?;
        layout.write_tables(&mut device)?;
        layout.write_bios_boot(&mut device, &grub.boot_image, &grub.core_image)?;
        boot::copy_sparse(&esp, &mut device.file, layout.esp().start)?;
        let tree = content::image_tree(ext4::from_tar(&tar, pin.epoch)?, &pin, &ids)?;
        // Nothing is synced: the store takes it in next, and a start after a crash removes the folder.
        write_tree(&mut device, &layout, tree, pin.epoch)?;
        std::fs::remove_file(&tar).map_err(SourceError::file("remove", &tar))
    });
    written.await.map_err(SourceError::Worker)??;
    Ok(raw)
}

pub(super) fn write_tree(
    device: &mut RawFile,
    layout: &HybridLayout,
    tree: Vec<ext4::Change>,
    epoch: i64,
) -> Result<(), SourceError> {
    let root = layout.root();
    let mut whole = ext4::SeekDevice::new(&mut device.file)
        .map_err(SourceError::file("open", Path::new("disk.raw")))?;
    let mut partition = ext4::Partition::new(&mut whole, root.start, root.end - root.start)
        .map_err(SourceError::file("open", Path::new("disk.raw")))?;
    let mut changes = tree.into_iter().map(Ok);
    let stats = ext4::apply(&mut partition, &mut changes, epoch)?;
    tracing::debug!(
        records = stats.records,
        content_bytes = stats.content_bytes,
        "tree written"
    );
    Ok(())
}

/// Installs the packages and answers the tree as an archive.
async fn install(pin: &Pin, place: &Place, log: &LogLine) -> Result<PathBuf, SourceError> {
    let fetched = place.work.join("debs");
    for folder in [&place.debs, &fetched] {
        std::fs::create_dir_all(folder).map_err(SourceError::file("make", folder))?;
    }
    let write = |name: &str, text: &str| {
        let path = place.work.join(name);
        std::fs::write(&path, text)
            .map_err(SourceError::file("write", &path))
            .map(|()| path)
    };
    let sources = write("sources.list", &pin.sources_list())?;
    let options = write(
        "apt.conf",
        &format!("Acquire::Languages \"none\";\n{}", place.acquire),
    )?;
    let tar = place.work.join("tree.tar");
    let is_root = rustix::process::geteuid().is_root();
    let (lines, watch) = (log.clone(), Watch::default());
    let seen = watch.clone();
    let installing = mmdebstrap(place, is_root)?
        .arg(format!(
            "--mode={}",
            if is_root { "root" } else { "unshare" }
        ))
        // Verbose, so that what apt says is heard while it says it.
        .args(["--verbose", "--format=tar", "--variant=minbase"])
        .arg(format!("--architectures={ARCHITECTURE}"))
        .arg(format!("--include={}", packages(pin).join(",")))
        .arg(format!("--aptopt={}", options.display()))
        .arg("--dpkgopt=force-unsafe-io")
        // The lists are the pin's, so that what is installed is what was pinned.
        .args(["--skip=update", "--skip=essential/unlink"])
        .args(copy_in(&place.lists, "/var/lib/apt/lists", is_root))
        .args(copy_in(&place.debs, ARCHIVES, is_root))
        .arg(copy_out(&place.debs, &fetched, is_root))
        .arg(format!("--customize-hook={COMPILE_AGAIN}"))
        .arg(format!("--customize-hook={MAKE_INITRD}"))
        .arg("")
        .args([&tar, &sources])
        .env("SOURCE_DATE_EPOCH", pin.epoch.to_string())
        .env(NO_INITRD.0, NO_INITRD.1)
        .env(STEADY_HASHES.0, STEADY_HASHES.1)
        .inherit(PROXY_VARIABLES)
        .deadline(INSTALL_DEADLINE)
        .on_line(move |stream, line| {
            if stream == Stream::Stderr {
                seen.line(line);
                line.strip_prefix("I: ").into_iter().for_each(&*lines);
            }
        })
        .run();
    let installed = watched(&watch, installing).await;
    let installed = installed.map_err(FetchError::from);
    installed
        .and_then(|ended| Ok(ended?))
        .map_err(|error| install_error(error, pin))?;
    keep_debs(&fetched, &place.debs)?;
    Ok(tar)
}

/// `mmdebstrap`, which makes its tree in memory where there is enough of it.
fn mmdebstrap(place: &Place, is_root: bool) -> Result<Command, SourceError> {
    const PROGRAM: &str = "mmdebstrap";
    let tree = place.work.join("tree");
    std::fs::create_dir_all(&tree).map_err(SourceError::file("make", &tree))?;
    let command = if is_root && memory::is_plenty() {
        Command::new("unshare")
            .args(["--mount", "--propagation=private", "--"])
            .args(["sh", "-euc", memory::IN_MEMORY, "sh"])
            .arg(&tree)
            .arg(memory::FOLDER_BYTES_MAX.to_string())
            .arg(PROGRAM)
    } else {
        Command::new(PROGRAM)
    };
    Ok(command.env("TMPDIR", &tree))
}

/// Hooks that copy a folder of this machine into the tree. Without root's rights only mmdebstrap may pass them on, which is
/// most of the processor time that it takes itself.
fn copy_in(from: &Path, to: &str, is_root: bool) -> [String; 2] {
    let from = quoted(from);
    [
        format!("--setup-hook=mkdir -p \"$1{to}\""),
        if is_root {
            format!("--setup-hook=cp -r {from}/. \"$1{to}\"")
        } else {
            format!("--setup-hook=sync-in {from} {to}")
        },
    ]
}

/// The hook that gives the packages that were fetched; those of `known` may be among them.
fn copy_out(known: &Path, to: &Path, is_root: bool) -> String {
    let (known, to) = (quoted(known), quoted(to));
    if is_root {
        format!(
            "--customize-hook=for deb in \"$1{ARCHIVES}\"/*.deb; do \
             test -e {known}/\"${{deb##*/}}\" || cp \"$deb\" {to} || exit 1; done"
        )
    } else {
        format!("--customize-hook=sync-out {ARCHIVES} {to}")
    }
}

/// A path inside the text of a hook, which is split as a shell would.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// What apt says where the archive holds something else than was pinned.
const MOVED: [&str; 3] = [
    "404  Not Found",
    "Hash Sum mismatch",
    "File has unexpected size",
];
/// What it says where it does not reach the archive.
const UNREACHED: [&str; 5] = [
    "Could not resolve",
    "Could not connect",
    "Temporary failure",
    "Failed to fetch",
    "Unable to fetch some archives",
];

fn install_error(error: FetchError, pin: &Pin) -> SourceError {
    let said = match &error {
        FetchError::Ended(ProcessError::Failed { tail, .. }) => tail.as_str(),
        FetchError::Ended(_) => "",
        FetchError::GaveUp(file) => &file.reason,
    };
    let says = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    let (moved, unreached) = (says(&MOVED), says(&UNREACHED));
    match error {
        source if moved => SourceError::ArchiveMoved {
            version: pin.image.version.clone(),
            source,
        },
        FetchError::Ended(other) if !unreached => other.into(),
        source => SourceError::ArchiveUnreachable {
            hint: "nothing half-fetched is kept".to_owned(),
            source,
        },
    }
}

/// Moves what was fetched to what is kept. A file appears there whole or not at all, so builds that
/// run at the same time may share the folder.
fn keep_debs(fetched: &Path, kept: &Path) -> Result<(), SourceError> {
    let entries = std::fs::read_dir(fetched).map_err(SourceError::file("list", fetched))?;
    for entry in entries.flatten().take(MAX_DEBS) {
        let (path, target) = (entry.path(), kept.join(entry.file_name()));
        if path.extension().is_some_and(|ext| ext == "deb") && !target.exists() {
            std::fs::rename(&path, &target).map_err(SourceError::file("keep", &path))?;
        }
    }
    std::fs::remove_dir_all(fetched).map_err(SourceError::file("remove", fetched))
}

/// A raw disk in a file, as the layout writes it.
pub(super) struct RawFile {
    file: File,
    size: u64,
}

impl RawFile {
    pub(super) fn open(path: &Path) -> Result<RawFile, SourceError> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(SourceError::file("open", path))?;
        let size = file
            .metadata()
            .map_err(SourceError::file("look at", path))?
            .len();
        Ok(RawFile { file, size })
    }
}

impl ReadAt for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        disk::check_range(self.size, offset, buf.len())?;
        self.file.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        Ok((offset < self.size).then_some(offset..self.size))
    }
}

impl WriteAt for RawFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        disk::check_range(self.size, offset, bytes.len())?;
        self.file.write_all_at(bytes, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Described, NotFetched};

    fn pin() -> Pin {
        let image = "Debian:debian-12:12-gen2:12.15.20261118".parse().unwrap();
        Pin::new(image, "Debian".to_owned(), Vec::new(), Vec::new())
    }

    #[track_caller]
    fn check(tail: &str, expected: fn(&SourceError) -> bool) {
        let status = std::os::unix::process::ExitStatusExt::from_raw(256);
        let failed = ProcessError::Failed {
            program: "mmdebstrap".to_owned(),
            status,
            tail: tail.to_owned(),
        };
        let error = install_error(failed.into(), &pin());
        assert!(expected(&error), "{error:?}");
    }

    #[test]
    fn a_failed_installation_says_what_to_do() {
        check("Err:1 http://mirror.example 404  Not Found", |error| {
            matches!(error, SourceError::ArchiveMoved { .. })
        });
        check("Could not resolve 'mirror.example'", |error| {
            matches!(error, SourceError::ArchiveUnreachable { .. })
        });
        check("No space left on device", |error| {
            matches!(error, SourceError::Process(_))
        });
    }

    #[test]
    fn a_file_that_apt_gave_up_is_told_by_its_address() {
        let check = |reason: &str, expected: fn(&SourceError) -> bool| {
            let file = "http://mirror.example/debian bookworm/main amd64 a".to_owned();
            let reason = reason.to_owned();
            let error = install_error(NotFetched { file, reason }.into(), &pin());
            assert!(expected(&error), "{error:?}");
            assert!(crate::pipeline::chain(&error).contains("http://mirror.example"));
        };
        check("Connection timed out [IP: 192.0.2.1 80]", |error| {
            matches!(error, SourceError::ArchiveUnreachable { .. })
        });
        check("404  Not Found", |error| {
            matches!(error, SourceError::ArchiveMoved { .. })
        });
    }

    #[test]
    fn what_is_described_decides_what_is_installed() {
        let mut other = pin();
        other.described = Some(Described {
            name: "Ubuntu".to_owned(),
            packages: vec!["linux-image-virtual".to_owned()],
        });
        assert_eq!(packages(&other), ["linux-image-virtual"]);
        assert_eq!(packages(&pin()), PACKAGES);
        let request = BaseRequest { disk_gib: 2 };
        let tools = Tools(Vec::new());
        let mut named = other.clone();
        named.described.as_mut().unwrap().name = "Other".to_owned();
        assert_ne!(
            inputs(&other, &request, &tools),
            inputs(&named, &request, &tools)
        );
    }

    #[test]
    fn every_input_is_named() {
        let tools = Tools(vec![("mmdebstrap".to_owned(), "1.3.5".to_owned())]);
        let one = inputs(&pin(), &BaseRequest { disk_gib: 2 }, &tools);
        assert_ne!(one, inputs(&pin(), &BaseRequest { disk_gib: 3 }, &tools));
        assert_ne!(
            one,
            inputs(&pin(), &BaseRequest { disk_gib: 2 }, &Tools(Vec::new()))
        );
    }

    #[test]
    fn packages_are_in_order_and_once() {
        assert!(PACKAGES.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn quoting_survives_odd_folders() {
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }

    #[test]
    fn fetched_packages_are_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for path in [&from, &to] {
            std::fs::create_dir(path).unwrap();
        }
        for (name, text) in [("a.deb", "new"), ("b.deb", "new"), ("lock", "")] {
            std::fs::write(from.join(name), text).unwrap();
        }
        std::fs::write(to.join("a.deb"), "old").unwrap();
        keep_debs(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("a.deb")).unwrap(), "old");
        assert_eq!(std::fs::read_to_string(to.join("b.deb")).unwrap(), "new");
        assert!(!to.join("lock").exists() && !from.exists());
    }
}
