//! How fast one principal may ask in one subscription: a bucket for reads, one for writes and one for deletions, as
//! Azure Resource Manager has them. Off unless configured.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use http::header::HeaderName;
use serde::Deserialize;
use wire::{PrincipalId, SubscriptionId};

/// Buckets kept; past this the full ones are forgotten, and if none is, all of them.
const BUCKETS_MAX: usize = 100_000;

/// A bucket's size and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests at once.
    pub burst: u32,
    /// Requests a second, for good.
    pub per_second: u32,
}

/// The section `[rates]` of the configuration; what is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesConfig {
    pub reads: Option<Rate>,
    pub writes: Option<Rate>,
    pub deletes: Option<Rate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Reads,
    Writes,
    Deletes,
}

type Key = (PrincipalId, Option<SubscriptionId>, Kind);

struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Default)]
pub struct Rates {
    config: RatesConfig,
    buckets: Mutex<HashMap<Key, Bucket>>,
}

/// What the caller is told of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may; so many are left under this header.
    Taken(HeaderName, u32),
    Wait {
        seconds: u64,
    },
}

impl Rates {
    pub fn new(config: RatesConfig) -> Rates {
        Rates {
            config,
            buckets: Mutex::default(),
        }
    }

    /// Takes one; none where nothing is limited.
    pub fn take(
        &self,
        method: &Method,
        principal: PrincipalId,
        subscription: Option<SubscriptionId>,
    ) -> Option<Turn> {
        self.take_at(method, principal, subscription, Instant::now())
    }

    fn take_at(
        &self,
        method: &Method,
        principal: PrincipalId,
        subscription: Option<SubscriptionId>,
        now: Instant,
    ) -> Option<Turn> {
        let (kind, rate) = match *method {
            Method::GET | Method::HEAD => (Kind::Reads, self.config.reads?),
            Method::DELETE => (Kind::Deletes, self.config.deletes?),
            _ => (Kind::Writes, self.config.writes?),
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX {
            let idle = Duration::from_secs(u64::from(rate.burst / rate.per_second.max(1)) + 1);
            buckets.retain(|_, bucket| now.duration_since(bucket.at) < idle);
            if buckets.len() >= BUCKETS_MAX {
                buckets.clear();
            }
        }
        let full = f64::from(rate.burst.max(1));
        let bucket = buckets
            .entry((principal, subscription, kind))
            .or_insert(Bucket {
                tokens: full,
                at: now,
            });
        let speed = f64::from(rate.per_second.max(1));
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * speed;
        bucket.tokens = (bucket.tokens + gained).min(full);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            let seconds = ((1.0 - bucket.tokens) / speed).ceil().max(1.0);
            return Some(Turn::Wait {
                seconds: seconds as u64,
            });
        }
        bucket.tokens -= 1.0;
        Some(Turn::Taken(
            header(kind, subscription.is_some()),
            bucket.tokens as u32,
        ))
    }
}

fn header(kind: Kind, in_subscription: bool) -> HeaderName {
    HeaderName::from_static(match (kind, in_subscription) {
        (Kind::Reads, true) => "x-ms-ratelimit-remaining-subscription-reads",
        (Kind::Writes, true) => "x-ms-ratelimit-remaining-subscription-writes",
        (Kind::Deletes, true) => "x-ms-ratelimit-remaining-subscription-deletes",
        (Kind::Reads, false) => "x-ms-ratelimit-remaining-tenant-reads",
        (Kind::Writes, false) => "x-ms-ratelimit-remaining-tenant-writes",
        (Kind::Deletes, false) => "x-ms-ratelimit-remaining-tenant-deletes",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_for_each_principal_subscription_and_kind() {
        let config = RatesConfig {
            writes: Some(Rate {
                burst: 2,
                per_second: 1,
            }),
            ..RatesConfig::default()
        };
        let rates = Rates::new(config);
        let (one, other) = (PrincipalId::random(), PrincipalId::random());
        let subscription = Some(SubscriptionId::random());
        let start = Instant::now();
        let put = |who, place, at| rates.take_at(&Method::PUT, who, place, at);
        let left = |count| {
            let name = HeaderName::from_static("x-ms-ratelimit-remaining-subscription-writes");
            Some(Turn::Taken(name, count))
        };
        assert_eq!(put(one, subscription, start), left(1));
        assert_eq!(put(one, subscription, start), left(0));
        assert_eq!(
            put(one, subscription, start),
            Some(Turn::Wait { seconds: 1 })
        );
        assert_eq!(put(other, subscription, start), left(1));
        assert!(matches!(put(one, None, start), Some(Turn::Taken(_, 1))));
        assert_eq!(
            rates.take_at(&Method::GET, one, subscription, start),
            None,
            "reads are not limited"
        );
        let later = start + Duration::from_millis(1500);
        assert_eq!(put(one, subscription, later), left(0));
        assert_eq!(
            put(one, subscription, later),
            Some(Turn::Wait { seconds: 1 })
        );
        assert_eq!(
            put(one, subscription, later + Duration::from_secs(60)),
            left(1),
            "never more than full"
        );
    }
}
