//! The other programs, each by its own command line, with the settings that suit disks best.

use std::path::{Path, PathBuf};
use std::time::Duration;

use process::Command;

use crate::meter::{Cost, Meter, bytes_in, same};
use crate::{Disks, Next, Result, Row};

/// The slowest takes a minute on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(1800);
/// What xdelta3 may see of the older disk at a time: of a disk of 2 GiB, half.
const XDELTA_WINDOW: &str = "1073741824";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// qemu-img: compressed clusters, the later version as a layer over the first.
    Qcow2,
    Borg,
    Restic,
    Casync,
    /// A delta between two disks that are both at hand.
    Xdelta,
    /// In pieces of 4 KiB against an older copy at the other end.
    Rsync,
}

pub const ALL: [Peer; 6] = [
    Peer::Qcow2,
    Peer::Borg,
    Peer::Restic,
    Peer::Casync,
    Peer::Xdelta,
    Peer::Rsync,
];

impl Peer {
    pub fn program(self) -> &'static str {
        match self {
            Peer::Qcow2 => "qemu-img",
            Peer::Borg => "borg",
            Peer::Restic => "restic",
            Peer::Casync => "casync",
            Peer::Xdelta => "xdelta3",
            Peer::Rsync => "rsync",
        }
    }

    pub fn is_here(self) -> bool {
        process::find(self.program()).is_ok()
    }

    pub async fn row(self, disks: &Disks, next: Next, work: &Path) -> Result<Row> {
        let run = Run {
            first: disks.first(),
            next: disks.next(next),
            repository: work.join("repository"),
            restored: work.join("restored.raw"),
            work,
        };
        match self {
            Peer::Qcow2 => run.qcow2().await,
            Peer::Borg => run.borg().await,
            Peer::Restic => run.restic().await,
            Peer::Casync => run.casync().await,
            Peer::Xdelta => run.xdelta().await,
            Peer::Rsync => run.rsync().await,
        }
    }
}

struct Run<'a> {
    first: PathBuf,
    next: PathBuf,
    repository: PathBuf,
    restored: PathBuf,
    work: &'a Path,
}

impl Run<'_> {
    /// A command line of words, in the working folder.
    fn words<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Command {
        let mut words = words.into_iter();
        Command::new(words.next().unwrap_or_default())
            .args(words)
            .cwd(self.work)
            .deadline(DEADLINE)
    }

    fn is_right(&self, restored: &Path) -> Result<Option<bool>> {
        Ok(Some(same(restored, &self.next)?))
    }

    async fn qcow2(&self) -> Result<Row> {
        let (first, next) = (self.work.join("first.qcow2"), self.work.join("next.qcow2"));
        let convert = || {
            let line = "qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd";
            self.words(line.split(' '))
        };
        let mut row = Row {
            first: Some(cost(convert().arg(&self.first).arg(&first)).await?),
            first_bytes: Some(bytes_in(&first)?),
            ..Row::default()
        };
        let over = convert().args(["-B", "first.qcow2", "-F", "qcow2"]);
        row.next = Some(cost(over.arg(&self.next).arg(&next)).await?);
        row.added_bytes = Some(bytes_in(&next)?);
        row.moved_bytes = row.added_bytes;
        let back = self.words("qemu-img convert -O raw".split(' '));
        row.restore = Some(cost(back.arg(&next).arg(&self.restored)).await?);
        row.restored_right = self.is_right(&self.restored)?;
        Ok(row)
    }

    async fn borg(&self) -> Result<Row> {
        let borg = |words: &str| {
            self.words(words.split(' '))
                .env("BORG_BASE_DIR", self.work.join("borg"))
                .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
        };
        borg("borg init -e none repository").run().await?;
        let create = |archive: &str, disk: &Path| {
            borg("borg create --compression zstd,3 --chunker-params buzhash,14,18,16,4095")
                .arg(format!("repository::{archive}"))
                .arg(disk)
        };
        let mut row = self
            .two(create("first", &self.first), create("next", &self.next))
            .await?;
        row.restore = Some(cost(borg("borg extract --sparse repository::next")).await?);
        let inside = self.next.strip_prefix("/").unwrap_or(&self.next);
        row.restored_right = self.is_right(&self.work.join(inside))?;
        Ok(row)
    }

    async fn restic(&self) -> Result<Row> {
        let restic = |words: &str| {
            self.words(words.split(' '))
                .env("RESTIC_REPOSITORY", &self.repository)
                .env("RESTIC_PASSWORD", "not secret")
                .env("RESTIC_CACHE_DIR", self.work.join("restic"))
        };
        restic("restic init").run().await?;
        let backup = |disk: &Path| restic("restic backup").arg(disk);
        let mut row = self.two(backup(&self.first), backup(&self.next)).await?;
        let target = self.work.join("restored");
        let restore = restic("restic restore latest --target").arg(&target);
        row.restore = Some(cost(restore).await?);
        let inside = self.next.strip_prefix("/").unwrap_or(&self.next);
        row.restored_right = self.is_right(&target.join(inside))?;
        Ok(row)
    }

    async fn casync(&self) -> Result<Row> {
        std::fs::create_dir(&self.repository)?;
        let make = |index: &str, disk: &Path| {
            let line = "casync make --compression=zstd --store=repository/chunks.castr";
            self.words(line.split(' '))
                .arg(self.repository.join(index))
                .arg(disk)
        };
        let mut row = self
            .two(
                make("first.caibx", &self.first),
                make("next.caibx", &self.next),
            )
            .await?;
        let extract = "casync extract --store=repository/chunks.castr repository/next.caibx";
        let extract = self.words(extract.split(' ')).arg(&self.restored);
        row.restore = Some(cost(extract).await?);
        row.restored_right = self.is_right(&self.restored)?;
        Ok(row)
    }

    /// Both disks into the repository.
    async fn two(&self, first: Command, next: Command) -> Result<Row> {
        let empty = match self.repository.exists() {
            true => bytes_in(&self.repository)?,
            false => 0,
        };
        let first = cost(first).await?;
        let with_first = bytes_in(&self.repository)?;
        let next = cost(next).await?;
        Ok(Row {
            first: Some(first),
            first_bytes: Some(with_first - empty),
            next: Some(next),
            added_bytes: Some(bytes_in(&self.repository)?.saturating_sub(with_first)),
            ..Row::default()
        })
    }

    async fn xdelta(&self) -> Result<Row> {
        let delta = self.work.join("delta");
        let xdelta = |way: &str| {
            self.words(["xdelta3", way, "-1", "-B", XDELTA_WINDOW, "-s"])
                .arg(&self.first)
        };
        let made = cost(xdelta("-e").arg(&self.next).arg(&delta)).await?;
        let restored = cost(xdelta("-d").arg(&delta).arg(&self.restored)).await?;
        Ok(Row {
            moved: Some(made),
            moved_bytes: Some(bytes_in(&delta)?),
            restore: Some(restored),
            restored_right: self.is_right(&self.restored)?,
            ..Row::default()
        })
    }

    async fn rsync(&self) -> Result<Row> {
        let copy = self.words(["cp", "--sparse=always"]);
        copy.arg(&self.first).arg(&self.restored).run().await?;
        // Between two folders it would copy whole files unless told otherwise; without `--ignore-times`
        // a copy of the same length and second would pass for the same file.
        let line = "rsync --no-whole-file --ignore-times -B 4096 -z --zc=zstd --stats";
        let meter = Meter::start()?;
        let rsync = self.words(line.split(' '));
        let output = rsync.arg(&self.next).arg(&self.restored).run().await?;
        let moved = meter.read()?;
        let told = output.stdout_text();
        Ok(Row {
            moved: Some(moved),
            moved_bytes: Some(told_bytes(&told, "sent")? + told_bytes(&told, "received")?),
            restored_right: self.is_right(&self.restored)?,
            ..Row::default()
        })
    }
}

/// Of a program that must succeed, all that it started included.
async fn cost(command: Command) -> Result<Cost> {
    let meter = Meter::start()?;
    command.run().await?;
    meter.read()
}

/// `Total bytes sent: 59,600,123`
fn told_bytes(told: &str, which: &str) -> Result<u64> {
    let start = format!("Total bytes {which}: ");
    let line = told.lines().find_map(|line| line.strip_prefix(&start));
    let number = line.ok_or("rsync told no totals")?.replace(',', "");
    Ok(number.trim().parse()?)
}
