//! What this host lacks for building and running images, told before anybody waits for it.

use std::path::Path;

use process::{debian_package_of, find};

/// One thing looked at. `fix` says what to do where it is not as it should be.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    pub what: String,
    pub fix: Option<String>,
}

/// What the pipeline starts, and what for.
const PROGRAMS: [(&str, &str); 6] = [
    ("mmdebstrap", "makes a base system from a package archive"),
    ("mke2fs", "makes the root filesystem"),
    ("grub-mkimage", "makes the boot loader"),
    ("mcopy", "fills the boot partition and machines' seeds"),
    ("mkfs.vfat", "makes the boot partition and machines' seeds"),
    ("qemu-system-x86_64", "boots what was built"),
];
/// A build and two regions of a small image.
const SPACE_MIN: u64 = 8 << 30;

/// Looks at tools, rights, space and how machines run. Finding the last out may run a guest once.
pub async fn doctor(data: &Path) -> Vec<Check> {
    let mut checks: Vec<Check> = PROGRAMS
        .iter()
        .map(|(name, why)| program(name, why))
        .collect();
    checks.push(root());
    checks.push(space(data));
    checks.push(acceleration(data).await);
    checks
}

fn program(name: &str, why: &str) -> Check {
    let found = find(name);
    let fix = found.is_err().then(|| match debian_package_of(name) {
        Some(package) => format!("apt-get install {package}"),
        None => format!("install {name}"),
    });
    Check {
        name: name.into(),
        ok: found.is_ok(),
        what: match found {
            Ok(path) => format!("{} ({why})", path.display()),
            Err(_) => format!("not found; {why}"),
        },
        fix,
    }
}

fn root() -> Check {
    let root = rustix::process::geteuid().is_root();
    Check {
        name: "root".into(),
        ok: root,
        what: match root {
            true => "the build's namespaces can be made".into(),
            false => "builds need root, for the owners of files in an image".into(),
        },
        fix: (!root).then(|| "run the server as root, or with sudo".into()),
    }
}

/// Of the folder, or of the nearest one above that is there.
fn space(data: &Path) -> Check {
    let there = data
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let free = rustix::fs::statvfs(there).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let (ok, what) = match free {
        Ok(free) => (
            free >= SPACE_MIN,
            format!("{} GiB free at {}", free >> 30, there.display()),
        ),
        Err(error) => (
            false,
            format!("cannot look at {}: {error}", there.display()),
        ),
    };
    Check {
        name: "space".into(),
        ok,
        what,
        fix: (!ok).then(|| {
            format!(
                "have {} GiB free, or choose another folder with --data",
                SPACE_MIN >> 30
            )
        }),
    }
}

async fn acceleration(data: &Path) -> Check {
    let cache = data.join("cache");
    let made = std::fs::create_dir_all(&cache);
    let found = machine::probe(&cache.join("probe.json")).await;
    let kvm = matches!(found.accel, machine::Accel::Kvm);
    Check {
        name: "acceleration".into(),
        // Slow is not broken: everything works on TCG.
        ok: made.is_ok(),
        what: format!("{:?}: {}", found.accel, found.why),
        fix: (!kvm).then(|| "machines run several times faster where /dev/kvm runs guests".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_with_its_package() {
        let check = |name: &str, fix: Option<&str>| {
            let seen = program(name, "for a test");
            assert_eq!(
                (seen.ok, seen.fix.as_deref()),
                (fix.is_none(), fix),
                "{seen:?}"
            );
        };
        check("tar", None);
        check("frobnicate", Some("install frobnicate"));
    }

    #[test]
    fn space_is_looked_for_above_a_folder_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let seen = space(&dir.path().join("a/b"));
        assert!(seen.what.contains("GiB free"), "{seen:?}");
    }
}
