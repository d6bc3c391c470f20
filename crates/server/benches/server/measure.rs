//! The questions, and what their answers cost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::client::{Seen, Target, many, request};
use crate::seed::{self, VERSIONS};

const CONNECTIONS: usize = 64;
const SECONDS: u64 = 10;
/// The name of the clients' threads: what they use is not the server's.
const CLIENTS: &str = "client";
const TOP: usize = 100;
const API: &str = "api-version=2024-03-03";

pub fn run(data: &Path) -> Result<()> {
    // The server gets what `bullion serve` would have: a thread for each core.
    let own = tokio::runtime::Runtime::new()?;
    let clients = clients()?;
    let begun = Instant::now();
    let running = own.block_on(seed::start(data))?;
    let started = begun.elapsed();
    let (target, token, _) = clients.block_on(clients.spawn(sign_in(&running)))??;
    let stored = clients.block_on(clients.spawn(stored(target.clone(), token.clone())))??;
    say(&format!("\n{stored} versions; load before {}", load()));
    say(&format!(
        "start: {:.2} s, {} MiB",
        started.as_secs_f64(),
        memory()
    ));
    let asked = Questions {
        target,
        token,
        stored,
    };
    let questions = async move {
        if stored > 1 {
            asked.one_version().await?;
            asked.any_version().await?;
            asked.list().await?;
        }
        asked.put().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    clients.block_on(clients.spawn(questions))??;
    say(&format!(
        "memory after all: {} MiB; load after {}",
        memory(),
        load()
    ));
    own.block_on(running.stop());
    Ok(())
}

/// Where clients run: on one thread, by whose name [`processor`] knows it.
pub fn clients() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(CLIENTS)
        .enable_all()
        .build();
    Ok(built?)
}

fn sign_in(
    running: &server::Running,
) -> impl Future<Output = Result<(Target, String, wire::TenantId)>> + Send + 'static {
    let (address, ca, data) = (running.address, running.ca.clone(), running.data.clone());
    async move { seed::sign_in(address, &ca, &data).await }
}

/// How many versions there are, told by those of the last definitions that are there.
async fn stored(target: Target, token: String) -> Result<usize> {
    let mut connection = target.connect().await?;
    for count in [1_000_000, 10_000] {
        let path = format!("{}?{API}", seed::version(count - 1));
        if connection
            .ask(&request("GET", &path, Some(&token), None))
            .await?
            .status
            == 200
        {
            return Ok(count);
        }
    }
    Ok(1)
}

struct Questions {
    target: Target,
    token: String,
    stored: usize,
}

impl Questions {
    async fn one_version(&self) -> Result<()> {
        let path = format!("{}?{API}", seed::version(VERSIONS / 2));
        let asked = request("GET", &path, Some(&self.token), None);
        self.measure(
            "GET of one version",
            move |_, _| asked.clone(),
            |status| status == 200,
        )
        .await
    }

    /// Spread over all there are.
    async fn any_version(&self) -> Result<()> {
        let (stored, token) = (self.stored, self.token.clone());
        let next = Arc::new(AtomicUsize::new(0));
        let make = move |_, _| {
            // A step that shares no factor with the count reaches all of them.
            let number = next.fetch_add(7_919, Ordering::Relaxed) % stored;
            request(
                "GET",
                &format!("{}?{API}", seed::version(number)),
                Some(&token),
                None,
            )
        };
        self.measure("GET of any version", make, |status| status == 200)
            .await
    }

    async fn put(&self) -> Result<()> {
        let token = self.token.clone();
        let run = std::process::id();
        let make = move |connection: usize, turn: usize| {
            let name = format!("p{run}-{connection}-{turn}");
            let body = seed::definition(&name).to_string();
            let path = format!("{}/images/{name}?{API}", seed::gallery());
            request("PUT", &path, Some(&token), Some(&body))
        };
        self.measure("PUT of a new definition", make, |status| status == 201)
            .await
    }

    async fn measure(
        &self,
        what: &str,
        make: impl Fn(usize, usize) -> Vec<u8> + Clone + Send + 'static,
        fine: fn(u16) -> bool,
    ) -> Result<()> {
        let before = processor();
        let seen = many(&self.target, CONNECTIONS, long(), make, fine).await?;
        let after = processor();
        show(what, &seen, [after[0] - before[0], after[1] - before[1]]);
        Ok(())
    }

    /// All versions of one definition, page after page, on one connection.
    async fn list(&self) -> Result<()> {
        let mut connection = self.target.connect().await?;
        let mut path = format!("{}/images/d0/versions?{API}&$top={TOP}", seed::gallery());
        let (mut each, mut items, before) = (Vec::new(), 0, processor());
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let answer = connection
                .ask(&request("GET", &path, Some(&self.token), None))
                .await?;
            each.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
            let page: Value = serde_json::from_slice(&answer.body)?;
            items += page["value"].as_array().map_or(0, Vec::len);
            let Some(next) = page["nextLink"].as_str() else {
                break;
            };
            let at = next
                .find("/subscriptions")
                .ok_or("a next link without a path")?;
            path = next[at..].to_owned();
        }
        let after = processor();
        each.sort_unstable();
        let seen = Seen {
            answers: each.len(),
            took: begun.elapsed(),
            each,
        };
        show(
            &format!("page of {TOP} of {items}"),
            &seen,
            [after[0] - before[0], after[1] - before[1]],
        );
        Ok(())
    }
}

fn long() -> Duration {
    let seconds = std::env::var("BULLION_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

/// `used`: seconds of the processor by the server and by the clients.
fn show(what: &str, seen: &Seen, used: [f64; 2]) {
    let each = |seconds: f64| seconds * 1e6 / seen.answers as f64;
    say(&format!(
        "{what:<24} {:>8.0}/s   median {:>7.2} ms   p99 {:>7.2} ms   worst {:>7.2} ms   processor: server {:>5.0} µs, clients {:>4.0} µs each",
        seen.per_second(),
        seen.quantile(0.5),
        seen.quantile(0.99),
        seen.quantile(1.0),
        each(used[0]),
        each(used[1]),
    ));
}

/// Seconds of the processor so far: of the server's threads, and of the clients'.
pub fn processor() -> [f64; 2] {
    let mut used = [0.0; 2];
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanoseconds = read("schedstat")
            .split(' ')
            .next()
            .and_then(|text| text.parse::<f64>().ok());
        let whose = usize::from(read("comm").trim() == CLIENTS);
        used[whose] += nanoseconds.unwrap_or_default() / 1e9;
    }
    used
}

/// Resident, in MiB, clients included.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|text| text.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[allow(clippy::print_stdout, reason = "figures are what a bench is for")]
pub fn say(line: &str) {
    println!("{line}");
}
