//! Whether a tree that is thrown away may be made in memory: installing packages writes each file a few times, and none
//! of that has to reach a disk. It must not decide what is made there, and nothing of it changes the result.

use std::path::Path;

/// What the folder in memory may hold, in bytes. A tree of a minimal system with its packages takes a third.
pub(super) const FOLDER_BYTES_MAX: u64 = 2 << 30;
/// What must be free, in bytes, so that nothing else has to go.
const FREE_BYTES_MIN: u64 = 2 * FOLDER_BYTES_MAX;
/// Run by `sh` in a mount namespace of its own: the folder is memory for what comes after, and gone with it however it
/// ends.
pub(super) const IN_MEMORY: &str =
    "mount -t tmpfs -o mode=0755,size=\"$2\" tmpfs \"$1\"; shift 2; exec \"$@\"";

/// Whether there is so much memory that nobody will notice.
pub(super) fn is_plenty() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let own = read("/proc/self/cgroup");
    let limits = groups(&own).map(|group| {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        read(&file.to_string_lossy())
    });
    plenty(&read("/proc/meminfo"), limits)
}

/// The control groups that a process is in, the outermost first, relative to where they are mounted.
fn groups(own: &str) -> impl Iterator<Item = &Path> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let mut all: Vec<&Path> = path
        .map(Path::new)
        .into_iter()
        .flat_map(Path::ancestors)
        .collect();
    if all.is_empty() {
        all.push(Path::new(""));
    }
    all.into_iter().rev()
}

fn plenty(memory: &str, limits: impl Iterator<Item = String>) -> bool {
    let free = memory.lines().find_map(|line| {
        let kib = line
            .strip_prefix("MemAvailable:")?
            .trim()
            .strip_suffix(" kB")?;
        kib.parse::<u64>().ok()?.checked_mul(1 << 10)
    });
    // `max` is no number, and no limit.
    let mut limits = limits.filter_map(|text| text.trim().parse::<u64>().ok());
    free.is_some_and(|free| free >= FREE_BYTES_MIN) && limits.all(|limit| limit >= FREE_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(memory: &str, limits: &[&str], expected: bool) {
        let limits = limits.iter().map(|&limit| limit.to_owned());
        assert_eq!(plenty(memory, limits), expected);
    }

    #[test]
    fn memory_is_used_where_it_and_every_group_have_enough() {
        let much = "MemTotal: 9 kB\nMemAvailable:   16000000 kB\n";
        check(much, &[], true);
        check(much, &["max\n", "8589934592\n"], true);
        check(much, &["max\n", "1073741824\n"], false);
        check("MemAvailable: 1000000 kB\n", &[], false);
        check("MemTotal: 16000000 kB\n", &[], false);
    }

    #[test]
    fn limits_of_all_groups_above_count() {
        let named = |own| {
            groups(own)
                .map(|group| group.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            named("0::/system.slice/bullion.service\n"),
            ["", "system.slice", "system.slice/bullion.service"]
        );
        assert_eq!(named("0::/\n"), [""]);
        assert_eq!(named("4:memory:/x\n"), [""]);
    }
}
