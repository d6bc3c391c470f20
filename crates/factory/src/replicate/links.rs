//! Ways between regions: how many bytes may pass in a second. Who waits is the thread that copies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use store::Progress;
use store::region::Flow;
use tokio::sync::watch;
use wire::Location;

/// Bytes that may pass at once after a rest, in seconds of the bandwidth.
const BURST: Duration = Duration::from_secs(1);
/// Percent between two writes of how far a copy is.
const STEP: u64 = 10;

/// One limit for each pair of regions.
#[derive(Debug, Default)]
pub struct Links(Mutex<BTreeMap<(String, String), Arc<Link>>>);

impl Links {
    /// The link between two regions; `bandwidth` is in bytes per second.
    pub fn between(&self, from: &Location, to: &Location, bandwidth: Option<u64>) -> Arc<Link> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry((from.folded(), to.folded()));
        Arc::clone(link.or_insert_with(|| Arc::new(Link::new(bandwidth))))
    }
}

/// A link, which all copies between two regions share.
#[derive(Debug)]
pub struct Link {
    bandwidth: Option<u64>,
    /// When everything that was let pass so far has passed at the bandwidth.
    free: Mutex<Option<Instant>>,
    /// Never told: waiting on it is resting.
    rest: Condvar,
}

impl Link {
    fn new(bandwidth: Option<u64>) -> Link {
        Link {
            bandwidth,
            free: Mutex::new(None),
            rest: Condvar::new(),
        }
    }

    /// Lets bytes pass and rests as long as they take.
    fn pass(&self, bytes: u64) {
        let Some(bandwidth) = self.bandwidth.filter(|bandwidth| *bandwidth > 0) else {
            return;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free.map_or(now, |free| free.max(now));
        let end = begin + takes;
        *free = Some(end);
        let over = end.saturating_duration_since(now).saturating_sub(BURST);
        if !over.is_zero() {
            drop(self.rest.wait_timeout(free, over));
        }
    }
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    pub percent: u8,
    pub done: u64,
    pub total: u64,
    /// The disk that is copied, from 1 on, and of how many.
    pub disk: (usize, usize),
}

impl Share {
    /// For people.
    pub fn shown(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let bytes = format!("{:.1} of {:.1} MiB", mib(self.done), mib(self.total));
        match self.disk {
            (_, 0 | 1) => bytes,
            (disk, disks) => format!("disk {disk} of {disks}: {bytes}"),
        }
    }
}

/// One copy on its link.
pub(super) struct OnLink {
    pub link: Arc<Link>,
    pub told: watch::Sender<Share>,
    pub moved: AtomicU64,
    /// Disks that were copied before.
    pub disk: usize,
    pub disks: usize,
}

impl Flow for OnLink {
    fn moved(&self, new: u64, progress: Progress) {
        self.moved.fetch_add(new, Ordering::Relaxed);
        let of_disk = progress.bytes_done * 100 / progress.bytes_total.max(1);
        let percent = (self.disk as u64 * 100 + of_disk) / self.disks.max(1) as u64;
        let share = Share {
            percent: u8::try_from(percent.min(99)).unwrap_or(99),
            done: progress.bytes_done,
            total: progress.bytes_total,
            disk: (self.disk + 1, self.disks),
        };
        self.told.send_if_modified(|last| {
            let further = percent.min(99) >= u64::from(last.percent) + STEP;
            if further {
                *last = share;
            }
            further
        });
        self.link.pass(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_booked_for_as_long_as_the_bytes_take() {
        let link = Link::new(Some(1 << 20));
        let before = Instant::now();
        // Within the burst nobody rests.
        link.pass(1 << 19);
        let booked = link.free.lock().unwrap().unwrap();
        assert!(booked >= before + Duration::from_millis(499));
        let open = Link::new(None);
        open.pass(u64::MAX);
        assert!(open.free.lock().unwrap().is_none());
    }

    #[test]
    fn one_pair_of_regions_has_one_link() {
        let links = Links::default();
        let (north, south) = (Location::new("north"), Location::new("South"));
        let one = links.between(&north, &south, None);
        assert!(Arc::ptr_eq(
            &one,
            &links.between(&north, &Location::new("south"), None)
        ));
        assert!(!Arc::ptr_eq(&one, &links.between(&south, &north, None)));
    }
}
