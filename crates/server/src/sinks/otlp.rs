//! OTLP logs over HTTP, in the protocol's JSON encoding.
//!
//! The messages are few and written here: the crate that generates them brings a whole telemetry stack. A record that
//! the receiver says it has rejected is told in our log and not sent again, as the protocol asks.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::ActivityStatus;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::record::Kind;
use super::{Record, SendError, SinkAddress, SinkError, trust};

const ANSWER_BYTES_MAX: usize = 64 * 1024;
const PAUSE_MAX: Duration = Duration::from_secs(300);
const HEADERS_MAX: usize = 32;

pub struct Otlp {
    endpoint: String,
    http: reqwest::Client,
}

/// `ExportLogsServiceResponse`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    partial_success: Option<PartialSuccess>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    /// A number, or as protobuf's JSON has it, a text.
    rejected_log_records: Value,
    error_message: String,
}

impl Otlp {
    pub(super) fn new(sink: &SinkAddress) -> Result<Otlp, SinkError> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("bullion/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = sink.headers() {
            let headers = trust::file(sink, path, |text| Ok(headers(&String::from_utf8(text)?)?))?;
            builder = builder.default_headers(headers);
        }
        Ok(Otlp {
            endpoint: sink.endpoint(),
            http: trust::client(sink, builder)?,
        })
    }

    pub(super) async fn send(&self, records: &[Record]) -> Result<(), SendError> {
        let sent = self.http.post(&self.endpoint).json(&request(records));
        let answer = sent.send().await.map_err(SendError::Http)?;
        let status = answer.status().as_u16();
        match status {
            200..=299 => {}
            400 | 413 => return Err(SendError::Refused(status)),
            _ => {
                let pause = pause(&answer);
                return Err(SendError::Status { status, pause });
            }
        }
        let answer = body(answer).await?;
        let answer: Answer = serde_json::from_slice(&answer).unwrap_or_default();
        if let Some(partial) = answer.partial_success {
            let rejected = match &partial.rejected_log_records {
                Value::String(text) => text.parse().unwrap_or(0),
                other => other.as_u64().unwrap_or(0),
            };
            if rejected > 0 {
                let (first, last) = (records.first(), records.last());
                let (first, last) = (first.map(|one| one.seq), last.map(|one| one.seq));
                let said = partial.error_message;
                tracing::error!(
                    rejected,
                    first,
                    last,
                    said,
                    "a receiver of the activity log rejected lines"
                );
            }
        }
        Ok(())
    }
}

fn headers(text: &str) -> Result<HeaderMap, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let mut headers = HeaderMap::new();
    for line in lines.take(HEADERS_MAX) {
        let wrong = || "each line is to be 'Name: value'".to_owned();
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn pause(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = Duration::from_secs(text.parse().ok()?);
    Some(seconds.min(PAUSE_MAX))
}

async fn body(mut answer: Response) -> Result<Vec<u8>, SendError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(SendError::Http)? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// `ExportLogsServiceRequest`; the records of each server under a resource of their own.
pub(super) fn request(records: &[Record]) -> Value {
    let mut nodes: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for record in records {
        nodes
            .entry(&record.node)
            .or_default()
            .push(log_record(record));
    }
    let resources: Vec<Value> = nodes
        .into_iter()
        .map(|(node, records)| {
            json!({
                "resource": { "attributes": [
                    text("service.name", "bullion"),
                    text("service.version", env!("CARGO_PKG_VERSION")),
                    text("service.instance.id", node),
                ] },
                "scopeLogs": [{ "scope": { "name": "bullion.activity" }, "logRecords": records }],
            })
        })
        .collect();
    json!({ "resourceLogs": resources })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64-bit numbers are texts in this encoding.
fn number(key: &str, value: impl ToString) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn log_record(record: &Record) -> Value {
    let (severity, severity_text) = severity(record.kind);
    let mut attributes = vec![
        number("bullion.seq", record.seq),
        number("bullion.at", record.at),
        text("bullion.status", record.kind.word()),
    ];
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            attributes.push(text(key, value));
        }
    };
    add("bullion.tenant", &record.tenant);
    add("bullion.id_key", &record.id_key);
    add("bullion.hash", &record.hash);
    if let Some(entry) = &record.entry {
        add("bullion.resource.id", &entry.id);
        add("bullion.action", &entry.action);
        add("error.type", entry.code.as_deref().unwrap_or_default());
        add(
            "client.address",
            entry.address.as_deref().unwrap_or_default(),
        );
    }
    json!({
        "timeUnixNano": record.time().as_nanosecond().to_string(),
        "severityNumber": severity,
        "severityText": severity_text,
        "eventName": "bullion.activity",
        "body": { "stringValue": record.text },
        "attributes": attributes,
    })
}

fn severity(kind: Kind) -> (u8, &'static str) {
    match kind {
        Kind::Gap | Kind::Done(ActivityStatus::Refused) => (13, "WARN"),
        Kind::Done(ActivityStatus::Failed) => (10, "INFO2"),
        Kind::Done(_) | Kind::Checkpoint => (9, "INFO"),
    }
}
