//! The disks that the store is measured with: four versions of a Debian image, made here, and kept for the next
//! run. Each is 2 GiB, sparse, with an ext4 of 4 KiB blocks.
//!
//! `first` is the archive's release as it came out last; `large` the same packages with all updates since, in a new
//! file system; `in-place` is `first` with a few packages installed in it, and `small` the files of that in a new
//! file system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::deps;
use crate::program::Program;
use crate::progress::Step;

const DISK_BYTES: u64 = 2 << 30;
/// Where a partition would begin.
const OFFSET: u64 = 1 << 20;
/// The file system: what is left, less a MiB for the table at the end.
const FILE_SYSTEM: &str = "2046M";
const RELEASE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What makes a system of it that starts, as images of clouds do.
const SYSTEM: &str = "ca-certificates,cloud-guest-utils,cloud-init,dbus,e2fsprogs,initramfs-tools,iproute2,\
                      isc-dhcp-client,kmod,linux-image-cloud-amd64,locales,openssh-server,procps,sudo,systemd-sysv,udev";
/// What is added for the small change: some 20 MB, 5 MB as packages, so that what delta coders make of it is
/// what they make of other small updates of a system. None of them has a daemon.
const ADDED: [&str; 10] = [
    "bash-completion",
    "file",
    "htop",
    "jq",
    "less",
    "lsof",
    "rsync",
    "strace",
    "tcpdump",
    "tmux",
];
const NAMES: [&str; 4] = ["first", "large", "in-place", "small"];

/// Makes what is not there yet, in this folder.
pub fn make(folder: &Path) -> Result<()> {
    let missing = |name: &&&str| !folder.join(format!("{name}.raw")).is_file();
    if NAMES.iter().find(missing).is_none() {
        return Ok(());
    }
    let Some(runner) = deps::privileges()? else {
        bail!("making the disks needs root, for chroot and mount, and there is no sudo");
    };
    let work = folder.join("making");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let maker = Maker {
        folder,
        work: &work,
        runner,
    };
    let made = maker.all();
    // Files of root's are in it.
    let cleared = maker.run("rm", ["-rf".as_ref(), work.as_os_str()]);
    made.and(cleared)
}

struct Maker<'a> {
    folder: &'a Path,
    work: &'a Path,
    runner: &'a [&'a str],
}

impl Maker<'_> {
    /// Those that come from others are made last, and anew if one of them is missing.
    fn all(&self) -> Result<()> {
        let all = host_sources()?;
        let begin = format!(" {RELEASE} ");
        let release: Vec<String> = all
            .iter()
            .filter(|line| line.contains(&begin))
            .cloned()
            .collect();
        if release.is_empty() {
            bail!("this host's apt has no `{RELEASE}`, which the disks are made from");
        }
        for (name, sources) in [("first", &release), ("large", &all)] {
            if !self.folder.join(format!("{name}.raw")).is_file() {
                self.installed(name, sources)?;
            }
        }
        self.in_place()
    }

    fn run<A: AsRef<std::ffi::OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<()> {
        let program = Program::new(program).args(args).through(self.runner);
        program.stdout().map(drop)
    }

    fn installed(&self, name: &str, sources: &[String]) -> Result<()> {
        let step = Step::begin(format!("installing the disk `{name}`"));
        let tree = self.work.join(name);
        let include = format!("--include={SYSTEM}");
        let keyring = format!("--keyring={KEYRING}");
        let tree_name = tree.to_string_lossy();
        let options = ["--quiet", "--variant=important", &include, &keyring];
        let args = options.iter().copied().chain([RELEASE, &tree_name]);
        self.run("mmdebstrap", args.chain(sources.iter().map(String::as_str)))?;
        self.disk_of(&tree, name)?;
        step.done("");
        Ok(())
    }

    /// A new file system with these files.
    fn disk_of(&self, tree: &Path, name: &str) -> Result<()> {
        let making = self.making(name);
        let file = File::create(&making).and_then(|file| file.set_len(DISK_BYTES));
        file.with_context(|| format!("cannot write {}", making.display()))?;
        let options = format!("offset={OFFSET},lazy_itable_init=0,lazy_journal_init=0");
        self.run(
            "mke2fs",
            [
                "-q".as_ref(),
                "-t".as_ref(),
                "ext4".as_ref(),
                "-b".as_ref(),
                "4096".as_ref(),
                "-d".as_ref(),
                tree.as_os_str(),
                "-E".as_ref(),
                options.as_ref(),
                making.as_os_str(),
                FILE_SYSTEM.as_ref(),
            ],
        )?;
        self.finish(name)
    }

    /// A disk has its name only when it is whole.
    fn making(&self, name: &str) -> PathBuf {
        self.work.join(format!("{name}.raw"))
    }

    fn finish(&self, name: &str) -> Result<()> {
        let to = self.folder.join(format!("{name}.raw"));
        fs::rename(self.making(name), &to).with_context(|| format!("cannot make {}", to.display()))
    }

    fn in_place(&self) -> Result<()> {
        let step = Step::begin("installing packages in a copy of `first`");
        let (first, copy) = (self.folder.join("first.raw"), self.making("in-place"));
        self.run(
            "cp",
            [
                "--sparse=always".as_ref(),
                first.as_os_str(),
                copy.as_os_str(),
            ],
        )?;
        {
            let root = self.work.join("mounted");
            fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
            let options = format!("loop,offset={OFFSET}");
            let disk = self.mount(&["-o", &options], &copy, &root)?;
            self.add_packages(&root)?;
            self.disk_of(&root, "small")?;
            disk.unmount()?;
        }
        self.finish("in-place")?;
        step.done("");
        Ok(())
    }

    fn add_packages(&self, root: &Path) -> Result<()> {
        // What apt fetches is no part of the disk.
        let run = self.mount(&["-t", "tmpfs"], Path::new("tmpfs"), &root.join("run"))?;
        let proc = self.mount(&["-t", "proc"], Path::new("proc"), &root.join("proc"))?;
        let resolver = root.join("run/resolv.conf");
        self.run("cp", ["/etc/resolv.conf".as_ref(), resolver.as_os_str()])?;
        let names = self.mount(&["--bind"], &resolver, &root.join("etc/resolv.conf"))?;
        for folder in ["run/lists/partial", "run/archives/partial"] {
            self.run("mkdir", ["-p".as_ref(), root.join(folder).as_os_str()])?;
        }
        let apt = |words: &[&str]| {
            let root = root.to_string_lossy();
            let options = [
                &*root,
                "env",
                "DEBIAN_FRONTEND=noninteractive",
                "LC_ALL=C.UTF-8",
                "apt-get",
                "-q",
                "-y",
                "-o",
                "Dir::State::lists=/run/lists",
                "-o",
                "Dir::Cache::archives=/run/archives",
                "-o",
                "Dir::Cache::pkgcache=",
                "-o",
                "Dir::Cache::srcpkgcache=",
                "-o",
                "APT::Sandbox::User=root",
                "--no-install-recommends",
            ];
            self.run("chroot", options.iter().chain(words))
        };
        apt(&["update"])?;
        apt(&[&["install"], &ADDED[..]].concat())?;
        names.unmount()?;
        proc.unmount()?;
        run.unmount()
    }

    fn mount(&self, options: &[&str], what: &Path, at: &Path) -> Result<Mounted<'_>> {
        let options = options.iter().map(AsRef::as_ref);
        self.run("mount", options.chain([what.as_os_str(), at.as_os_str()]))?;
        Ok(Mounted {
            at: at.to_owned(),
            runner: self.runner,
            there: true,
        })
    }
}

/// Where this host takes the release and its updates from, as lines of a sources list.
fn host_sources() -> Result<Vec<String>> {
    let apt = Program::new("apt-get").args([
        "indextargets",
        "--format",
        "deb $(SITE) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]);
    let updates = format!(" {RELEASE}-");
    let own = |line: &&str| {
        line.ends_with(" main")
            && (line.contains(&updates) || line.contains(&format!(" {RELEASE} ")))
    };
    Ok(apt
        .stdout()?
        .lines()
        .filter(own)
        .map(str::to_owned)
        .collect())
}

/// Unmounted when dropped, if it was not before: an error must not leave it there.
struct Mounted<'a> {
    at: PathBuf,
    runner: &'a [&'a str],
    there: bool,
}

impl Mounted<'_> {
    fn unmount(mut self) -> Result<()> {
        self.there = false;
        self.umount()
    }

    fn umount(&self) -> Result<()> {
        let umount = Program::new("umount").arg(&self.at).through(self.runner);
        umount.stdout().map(drop)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if self.there
            && let Err(error) = self.umount()
        {
            eprintln!("{error:#}");
        }
    }
}
