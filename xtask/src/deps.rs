//! The Debian packages that building, running and testing need, each with its reason. Only what is missing is
//! installed, by `apt-get`, after saying what and why.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::program::{self, Program, tail};
use crate::progress::Step;

const HELP: &str = "\
The Debian packages that Bullion needs

Usage: cargo xtask deps [--for quickstart|test|bench] [--list]

Options:
  --for WHAT  what `quickstart`, `test` or `bench` needs; each includes those before it (default: test)
  --list      show the table and what is missing; install nothing

Installs as root, or through sudo. Without either it prints the command for an administrator.

Examples:
  cargo xtask deps --list
  cargo xtask deps --for quickstart
";

/// How long apt-get waits for another package manager that holds the lock.
const LOCK_WAIT_SECONDS: u32 = 300;
/// How often apt-get tries a download again.
const DOWNLOAD_RETRIES: u32 = 3;

/// Who asks for packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// To compile.
    Build,
    /// To run the server and its pipeline.
    Run,
    /// To run the tests, beyond the two above.
    Test,
    /// To measure the store beside others, beyond the three above.
    Bench,
}

struct Package {
    name: &'static str,
    purpose: Purpose,
    why: &'static str,
}

const fn package(name: &'static str, purpose: Purpose, why: &'static str) -> Package {
    Package { name, purpose, why }
}

/// Every package, and why. What a package of this table depends on is not repeated.
const PACKAGES: &[Package] = &[
    package(
        "gcc",
        Purpose::Build,
        "links, and compiles the C parts: aws-lc, SQLite, zstd, BLAKE3, the ext4 shim",
    ),
    package("libc6-dev", Purpose::Build, "headers for the C parts"),
    package(
        "libext2fs-dev",
        Purpose::Build,
        "writes into ext4 without mounting it",
    ),
    package("pkg-config", Purpose::Build, "finds libext2fs"),
    package(
        "bubblewrap",
        Purpose::Run,
        "keeps programs in that work on bytes or code of tenants; starts mkosi in benchmarks",
    ),
    package(
        "debian-archive-keyring",
        Purpose::Run,
        "checks the signature of the archive that images are made from",
    ),
    package(
        "dosfstools",
        Purpose::Run,
        "formats the EFI system partition and the seed of a machine",
    ),
    package("e2fsprogs", Purpose::Run, "formats the root partition"),
    package(
        "gpgv",
        Purpose::Run,
        "checks the signatures of vendors' images",
    ),
    package(
        "grub-common",
        Purpose::Run,
        "grub-mkimage, which makes the boot loaders",
    ),
    package(
        "grub-efi-amd64-bin",
        Purpose::Run,
        "the modules of the UEFI boot loader",
    ),
    package(
        "grub-pc-bin",
        Purpose::Run,
        "the modules of the BIOS boot loader",
    ),
    package(
        "libwin-hivex-perl",
        Purpose::Run,
        "hivexregedit, which writes the record of a Windows image into its registry",
    ),
    package(
        "mmdebstrap",
        Purpose::Run,
        "makes the platform image from the package archive",
    ),
    package(
        "mount",
        Purpose::Run,
        "mounts the disk that a recipe is applied to",
    ),
    package(
        "mtools",
        Purpose::Run,
        "writes into FAT without mounting it",
    ),
    package("openssh-client", Purpose::Run, "`bullion vm ssh`"),
    package("ovmf", Purpose::Run, "UEFI firmware of machines"),
    package(
        "python3-testinfra",
        Purpose::Run,
        "checks of templates that are written for pytest",
    ),
    package(
        "qemu-system-x86",
        Purpose::Run,
        "machines: the test boot of every image, and deployment",
    ),
    package("seabios", Purpose::Run, "BIOS firmware of machines"),
    package(
        "uidmap",
        Purpose::Run,
        "lets the package bootstrap run in a user namespace",
    ),
    package(
        "util-linux",
        Purpose::Run,
        "unshare and setsid: namespaces for builds, a daemon without a terminal",
    ),
    package(
        "xorriso",
        Purpose::Run,
        "writes the medium that lets a build or test machine of Windows in",
    ),
    package(
        "busybox-static",
        Purpose::Test,
        "the small system that tests of the build sandbox work on",
    ),
    package(
        "curl",
        Purpose::Test,
        "the administrator's browser in examples/promote-with-az",
    ),
    package("gpg", Purpose::Test, "signs as a vendor of images would"),
    package(
        "gpg-agent",
        Purpose::Test,
        "holds the keys that it signs with",
    ),
    package(
        "libhivex-bin",
        Purpose::Test,
        "hivexsh, which says whether hives are read and written right",
    ),
    package(
        "libnbd-bin",
        Purpose::Test,
        "nbdinfo and nbdcopy, clients that our server of disks is tested with",
    ),
    package(
        "lynis",
        Purpose::Test,
        "a scanner that looks at finished images",
    ),
    package(
        "nbdkit",
        Purpose::Test,
        "the server of disks that ours is measured against",
    ),
    package(
        "nodejs",
        Purpose::Test,
        "runs the npm SDK, which the tests drive",
    ),
    package(
        "npm",
        Purpose::Test,
        "installs the npm SDK, which the tests drive",
    ),
    package(
        "ntfs-3g",
        Purpose::Test,
        "makes the NTFS volumes that ours is tested on",
    ),
    package(
        "openscap-scanner",
        Purpose::Test,
        "a scanner that looks at finished images",
    ),
    package(
        "openssl",
        Purpose::Test,
        "makes the certificate that az signs in with",
    ),
    package(
        "postgresql",
        Purpose::Test,
        "the database that servers share, in tests of that",
    ),
    package(
        "python3-venv",
        Purpose::Test,
        "an environment for the real az, which the tests drive",
    ),
    package(
        "qemu-utils",
        Purpose::Test,
        "qemu-img, which says whether disk images are read and written right",
    ),
    package(
        "borgbackup",
        Purpose::Bench,
        "borg, which the store is measured against",
    ),
    package(
        "casync",
        Purpose::Bench,
        "another that the store is measured against",
    ),
    package(
        "restic",
        Purpose::Bench,
        "another that the store is measured against",
    ),
    package(
        "rsync",
        Purpose::Bench,
        "what replication is measured against",
    ),
    package(
        "xdelta3",
        Purpose::Bench,
        "what replication is measured against",
    ),
];

pub fn command(args: &[String]) -> Result<ExitCode> {
    let mut purpose = Purpose::Test;
    let mut list_only = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            "--list" => list_only = true,
            "--for" => match args.next().map(String::as_str) {
                Some("quickstart") => purpose = Purpose::Run,
                Some("test") => purpose = Purpose::Test,
                Some("bench") => purpose = Purpose::Bench,
                other => bail!(
                    "`--for` takes quickstart, test or bench, not {}",
                    other.unwrap_or("nothing")
                ),
            },
            other => bail!("`deps` has no option `{other}`; see `cargo xtask deps --help`"),
        }
    }
    if list_only {
        return list(purpose);
    }
    install(purpose)?;
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing for this purpose and those before it.
pub fn install(purpose: Purpose) -> Result<()> {
    let step = Step::begin("packages");
    if !program::exists("dpkg-query") {
        step.failed("this is not a Debian system");
        bail!(
            "packages are installed with apt-get on Debian 12; elsewhere install these yourself: {}",
            { names(&wanted(purpose)) }
        );
    }
    let missing = missing(purpose)?;
    if missing.is_empty() {
        step.done("all there");
        return Ok(());
    }
    drop(step);
    announce(&missing)?;
    let runner = privileges()?;
    let Some(runner) = runner else {
        bail!(
            "installing packages needs root, and there is no sudo. Let an administrator run:\n  \
             apt-get update && apt-get install -y --no-install-recommends {}",
            names(&missing)
        );
    };
    install_all(
        missing,
        |packages| apt_install(packages, runner),
        || self::missing(purpose),
    )
}

/// Installs these, and once more what is missing then: apt removes a `qemu-utils` that is newer than the machine
/// emulator which it installs.
fn install_all(
    packages: Vec<&'static Package>,
    install: impl Fn(&[&Package]) -> Result<()>,
    missing: impl Fn() -> Result<Vec<&'static Package>>,
) -> Result<()> {
    install(&packages)?;
    let removed = missing()?;
    if removed.is_empty() {
        return Ok(());
    }
    install(&removed)?;
    let left = missing()?;
    if !left.is_empty() {
        bail!(
            "apt-get succeeded, yet these are not installed: {}",
            names(&left)
        );
    }
    Ok(())
}

fn list(purpose: Purpose) -> Result<ExitCode> {
    let missing: BTreeSet<&str> = missing(purpose)?
        .iter()
        .map(|package| package.name)
        .collect();
    println!("{:<24} {:<6} {:<8} why", "package", "for", "state");
    for package in wanted(purpose) {
        let state = if missing.contains(package.name) {
            "missing"
        } else {
            "there"
        };
        let purpose = format!("{:?}", package.purpose).to_lowercase();
        println!(
            "{:<24} {purpose:<6} {state:<8} {}",
            package.name, package.why
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(purpose: Purpose) -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .filter(|package| package.purpose <= purpose)
        .collect()
}

fn names(packages: &[&Package]) -> String {
    packages
        .iter()
        .map(|package| package.name)
        .collect::<Vec<_>>()
        .join(" ")
}

fn missing(purpose: Purpose) -> Result<Vec<&'static Package>> {
    let wanted = wanted(purpose);
    // The exit status tells only that some name is unknown; the lines tell which are installed.
    let query = Program::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(wanted.iter().map(|package| package.name))
        .output()?;
    let installed = installed(&query.stdout);
    Ok(wanted
        .into_iter()
        .filter(|package| !installed.contains(package.name) && !brought_along(package.name))
        .collect())
}

/// Whether another package has brought the program: the Node.js of other sources has npm in it and conflicts with
/// Debian's.
fn brought_along(package: &str) -> bool {
    ["nodejs", "npm"].contains(&package)
        && program::exists(if package == "npm" { "npm" } else { "node" })
}

fn installed(listing: &str) -> BTreeSet<&str> {
    listing
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .map(str::trim)
        .collect()
}

fn announce(missing: &[&Package]) -> Result<()> {
    eprintln!("To be installed with apt-get, without recommended packages:");
    for package in missing {
        eprintln!("  {:<24} {}", package.name, package.why);
    }
    let qemu = missing
        .iter()
        .any(|package| package.name == "qemu-system-x86");
    if qemu && !installed_version("qemu-utils")?.is_empty() {
        eprintln!(
            "  note: qemu-utils is installed; when it is newer than qemu-system-x86 here, apt replaces it."
        );
    }
    Ok(())
}

fn installed_version(package: &str) -> Result<String> {
    let query = Program::new("dpkg-query")
        .args(["--show", "--showformat", "${Version}", package])
        .output()?;
    Ok(if query.status.success() {
        query.stdout
    } else {
        String::new()
    })
}

/// What to run a privileged program through: nothing as root, `sudo` otherwise, `None` when there is neither.
pub fn privileges() -> Result<Option<&'static [&'static str]>> {
    if program::is_root()? {
        return Ok(Some(&[]));
    }
    if program::exists("sudo") {
        return Ok(Some(&["sudo"]));
    }
    Ok(None)
}

fn apt_install(missing: &[&Package], runner: &[&str]) -> Result<()> {
    if !runner.is_empty() {
        eprintln!("sudo may ask for your password now.");
        Program::new("sudo")
            .arg("-v")
            .run()
            .context("sudo was refused")?;
    }
    if missing.iter().any(|package| !has_candidate(package.name)) {
        apt_update(runner)?;
    }
    let step = Step::begin(format!("apt-get install ({})", missing.len()));
    let first = run_apt(&install_args(missing), runner, &step)?;
    if first.status.success() {
        step.done("");
        return Ok(());
    }
    step.failed("trying again with fresh package lists");
    apt_update(runner)?;
    let step = Step::begin(format!("apt-get install ({})", missing.len()));
    let second = run_apt(&install_args(missing), runner, &step)?;
    if second.status.success() {
        step.done("");
        return Ok(());
    }
    step.failed("");
    bail!(
        "apt-get could not install {}:\n{}",
        names(missing),
        tail(&(second.stdout + &second.stderr), 20)
    )
}

fn install_args(missing: &[&Package]) -> Vec<String> {
    let mut args: Vec<String> = ["install", "-y", "--no-install-recommends"]
        .iter()
        .map(|arg| (*arg).to_owned())
        .collect();
    args.extend(missing.iter().map(|package| package.name.to_owned()));
    args
}

fn apt_update(runner: &[&str]) -> Result<()> {
    let step = Step::begin("apt-get update");
    let finished = run_apt(&["update".to_owned()], runner, &step)?;
    if finished.status.success() {
        step.done("");
        return Ok(());
    }
    // One broken third-party list must not stop an install that does not need it.
    step.failed("some lists could not be fetched; going on with those that could");
    Ok(())
}

fn run_apt(args: &[String], runner: &[&str], step: &Step) -> Result<program::Finished> {
    let detail = step.detail();
    let mut through = runner.to_vec();
    // sudo drops the environment; `env` behind it sets what keeps apt-get from asking questions.
    through.extend(["env", "DEBIAN_FRONTEND=noninteractive"]);
    Program::new("apt-get")
        .args([
            "-q",
            "-o",
            &format!("DPkg::Lock::Timeout={LOCK_WAIT_SECONDS}"),
        ])
        .args(["-o", &format!("Acquire::Retries={DOWNLOAD_RETRIES}")])
        .args([
            "-o",
            "Dpkg::Options::=--force-confdef",
            "-o",
            "Dpkg::Options::=--force-confold",
        ])
        .args(args)
        .through(&through)
        .stdout_while(move |line| detail.set(line))
}

fn has_candidate(package: &str) -> bool {
    let policy = Program::new("apt-cache")
        .args(["policy", package])
        .env("LC_ALL", "C")
        .output();
    policy.is_ok_and(|policy| candidate(&policy.stdout))
}

fn candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_in_state_installed_count() {
        let found =
            installed("installed gcc\nconfig-files ovmf\nnot-installed mtools\ninstalled mount\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["gcc", "mount"]);
    }

    #[test]
    fn a_candidate_is_told_from_none_and_from_an_unknown_package() {
        assert!(candidate(
            "gcc:\n  Installed: (none)\n  Candidate: 4:12.2.0-3\n"
        ));
        assert!(!candidate(
            "gcc:\n  Installed: (none)\n  Candidate: (none)\n"
        ));
        assert!(!candidate(""));
    }

    #[test]
    fn the_table_is_sorted_within_its_purpose_names_no_package_twice_and_gives_a_reason() {
        let order: Vec<_> = PACKAGES
            .iter()
            .map(|package| (package.purpose, package.name))
            .collect();
        let mut sorted = order.clone();
        sorted.sort();
        sorted.dedup_by_key(|(_, name)| *name);
        assert_eq!(order, sorted);
        assert!(PACKAGES.iter().all(|package| !package.why.is_empty()));
    }

    #[test]
    fn what_apt_removes_for_another_is_installed_after_it() {
        use std::cell::RefCell;
        let check = |breaks: usize, wants: bool| {
            let (calls, there) = (
                RefCell::new(0),
                RefCell::new(BTreeSet::from(["qemu-utils"])),
            );
            let wanted = || {
                let mut wanted = wanted(Purpose::Test);
                wanted.retain(|package| package.name.starts_with("qemu-"));
                wanted
            };
            let missing = || {
                let there = there.borrow();
                let missing = wanted().into_iter();
                Ok(missing
                    .filter(|package| !there.contains(package.name))
                    .collect())
            };
            let install = |packages: &[&Package]| {
                let (mut calls, mut there) = (calls.borrow_mut(), there.borrow_mut());
                there.extend(
                    wanted()
                        .iter()
                        .map(|one| one.name)
                        .filter(|name| packages.iter().any(|package| package.name == *name)),
                );
                *calls += 1;
                if *calls <= breaks {
                    there.remove(if *calls % 2 == 1 {
                        "qemu-utils"
                    } else {
                        "qemu-system-x86"
                    });
                }
                Ok(())
            };
            let done = install_all(missing().unwrap(), install, missing);
            assert_eq!(done.is_ok(), wants, "{breaks}: {done:?}");
        };
        check(0, true);
        check(1, true);
        check(2, false);
    }

    #[test]
    fn testing_needs_what_running_needs() {
        let test: Vec<_> = wanted(Purpose::Test)
            .iter()
            .map(|package| package.name)
            .collect();
        assert!(
            wanted(Purpose::Run)
                .iter()
                .all(|package| test.contains(&package.name))
        );
    }
}
