//! The peer: mkosi as Debian's next release packages it, in a tree of its own, made once. It gets the same packages, a
//! package cache that is filled, and a workspace in memory.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::meter::{Cost, Meter, cpu_seconds};
use super::{PACKAGES, RELEASE};
use crate::program::{Program, tail};
use crate::progress::Step;

/// Where the peer is packaged; the host's release has one that is years older.
const PEER_RELEASE: &str = "trixie";
/// What the peer needs to make an image of `RELEASE`.
const PEER_PACKAGES: &str = "apt,bubblewrap,ca-certificates,cpio,debian-archive-keyring,dosfstools,dpkg,e2fsprogs,kmod,\
                             mkosi,mtools,python3-cryptography,python3-pefile,systemd-boot-efi,systemd-container,\
                             systemd-repart,systemd-ukify,uidmap,util-linux,zstd";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where the peer works, in its tree.
const WORK: &str = "bench";
/// A file that is put into the image, and changed.
const EXTRA: &str = "mkosi.extra/etc/bench/notice";
const LINES_TOLD: usize = 30;

/// Builds once so that all packages are there, and then measures.
pub fn measure(folder: &Path) -> Result<Vec<(&'static str, Cost)>> {
    let tree = folder.join("tree");
    if !tree.join("usr/bin/mkosi").exists() {
        install(folder, &tree)?;
    }
    let peer = Peer { tree: &tree };
    // First of all: what it starts in is made by it.
    peer.configure()?;
    let version = peer.program(&["--version"]).stdout()?;
    peer.change("one")?;
    // Twice forced: what it kept of earlier builds goes, the packages stay.
    peer.build("-f", "fetching its packages")?;
    let whole = peer.build("-ff", "a whole image")?;
    peer.change("two")?;
    let changed = peer.build("-f", "one file changed")?;
    eprintln!("the peer is {}", version.trim());
    Ok(vec![
        ("mkosi, whole image", whole),
        ("mkosi, one file changed", changed),
    ])
}

fn install(folder: &Path, tree: &Path) -> Result<()> {
    let step = Step::begin("installing the peer");
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let making = folder.join("making");
    let _ = fs::remove_dir_all(&making);
    let (main, _) = archives()?;
    let include = format!("--include={PEER_PACKAGES}");
    let bootstrap = Program::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", &include, PEER_RELEASE])
        .arg(&making)
        .arg(format!(
            "deb [signed-by={KEYRING}] {main} {PEER_RELEASE} main"
        ));
    bootstrap.stdout()?;
    fs::rename(&making, tree).with_context(|| format!("cannot make {}", tree.display()))?;
    step.done("");
    Ok(())
}

/// Where this host takes the release, and its security updates, from.
fn archives() -> Result<(String, Option<String>)> {
    let apt = Program::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]);
    let listing = apt.stdout()?;
    let of = |release: &str| {
        let wanted = format!(" {release} main");
        let line = listing.lines().find(|line| line.ends_with(&wanted));
        line.and_then(|line| line.split(' ').next())
            .map(str::to_owned)
    };
    let main = of(RELEASE).with_context(|| format!("this host's apt has no `{RELEASE}`"))?;
    Ok((main, of(&format!("{RELEASE}-security"))))
}

struct Peer<'a> {
    tree: &'a Path,
}

impl Peer<'_> {
    fn configure(&self) -> Result<()> {
        let packages: String = PACKAGES
            .iter()
            .chain(&["systemd-boot"])
            .map(|name| format!("    {name}\n"))
            .collect();
        let settings = format!(
            "[Distribution]\nDistribution=debian\nRelease={RELEASE}\nArchitecture=x86-64\n\n\
             [Output]\nFormat=disk\nImageId=peer\nOutputDirectory=out\n\n\
             [Build]\nIncremental=yes\nCacheDirectory=kept\nPackageCacheDirectory=packages\n\n\
             [Content]\nBootable=yes\nExtraTrees=mkosi.extra\nPackages=\n{packages}"
        );
        self.write("mkosi.conf", &settings)?;
        // Its own list has an archive of debug symbols, which few mirrors have.
        let (main, security) = archives()?;
        let part = |site: &str, suites: &str| {
            format!(
                "Types: deb\nURIs: {site}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n\n"
            )
        };
        let mut sources = part(&main, &format!("{RELEASE} {RELEASE}-updates"));
        if let Some(site) = security {
            sources.push_str(&part(&site, &format!("{RELEASE}-security")));
        }
        self.write(
            "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources",
            &sources,
        )?;
        for folder in ["out", "kept", "packages"] {
            let folder = self.tree.join(WORK).join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.tree.join(WORK).join(name);
        let folder = path.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn change(&self, content: &str) -> Result<()> {
        self.write(EXTRA, &content.repeat(super::REPEATED))
    }

    fn program(&self, args: &[&str]) -> Program {
        let bind = [
            "--dev-bind",
            "/dev",
            "/dev",
            "--proc",
            "/proc",
            "--bind",
            "/sys",
            "/sys",
        ];
        let memory = ["--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp"];
        let place = format!("/{WORK}");
        Program::new("bwrap")
            .arg("--dev-bind")
            .arg(self.tree)
            .arg("/")
            .args(bind)
            .args(memory)
            .args([
                "--ro-bind",
                "/etc/resolv.conf",
                "/etc/resolv.conf",
                "--cap-add",
                "ALL",
            ])
            .args(["--chdir", &place, "--setenv", "LC_ALL", "C.UTF-8"])
            .args(["--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin", "mkosi"])
            .args(args)
    }

    fn build(&self, force: &str, what: &str) -> Result<Cost> {
        let step = Step::begin(format!("mkosi: {what}"));
        let own = std::process::id();
        let (meter, cpu, clock) = (
            Meter::start(own),
            cpu_seconds(own)?,
            std::time::Instant::now(),
        );
        let finished = self.program(&[force, "build"]).output();
        let (wall, cpu) = (clock.elapsed().as_secs_f64(), cpu_seconds(own)? - cpu);
        let seen = meter.stop();
        let finished = finished?;
        if !finished.status.success() {
            step.failed("");
            bail!("the peer failed:\n{}", tail(&finished.stderr, LINES_TOLD));
        }
        step.done(&format!("{cpu:.2} s of processor time, {wall:.2} s"));
        Ok(Cost {
            cpu,
            wall,
            memory: seen.memory,
        })
    }
}
