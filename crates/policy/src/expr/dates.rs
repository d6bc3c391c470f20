//! Instants as text, in the one form that Azure writes: `2026-01-02T03:04:05.0000000Z`.
//!
//! Nothing here reads a clock; "now" is given with the evaluation.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::Value;

use super::numbers::whole;
use super::texts::text;

/// An instant, if the text is one: with a zone, without (taken as UTC), or a date alone.
pub fn instant(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    // Most text is no date, and saying so must be cheap.
    let bytes = text.as_bytes();
    if bytes.len() < 10 || bytes[4] != b'-' || !bytes[0].is_ascii_digit() {
        return None;
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    let civil = match text.len() {
        10 => text.parse::<Date>().ok()?.at(0, 0, 0, 0),
        _ => text.parse::<DateTime>().ok()?,
    };
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// In seven digits of a second, as Azure prints it.
pub fn render(instant: Timestamp) -> String {
    let fraction = instant.subsec_nanosecond() / 100;
    format!("{}.{fraction:07}Z", instant.strftime("%Y-%m-%dT%H:%M:%S"))
}

fn expect(value: &Value) -> Result<Timestamp, String> {
    let text = text(value)?;
    instant(text).ok_or_else(|| format!("`{text}` is no date and time"))
}

pub fn add_days(arguments: &[Value]) -> Result<Value, String> {
    let days = whole(&arguments[1])?;
    moved(&arguments[0], |span| span.try_days(days).ok())
}

fn moved(base: &Value, by: impl FnOnce(Span) -> Option<Span>) -> Result<Value, String> {
    let base = expect(base)?.to_zoned(TimeZone::UTC);
    by(Span::new())
        .and_then(|span| base.checked_add(span).ok())
        .map(|then| Value::String(render(then.timestamp())))
        .ok_or_else(|| "the date is out of range".into())
}

pub fn date_time_add(arguments: &[Value]) -> Result<Value, String> {
    let duration = text(&arguments[1])?;
    let span: Span = duration
        .parse()
        .map_err(|_| format!("`{duration}` is no ISO 8601 duration"))?;
    moved(&arguments[0], |_| Some(span))
}

pub fn from_epoch(arguments: &[Value]) -> Result<Value, String> {
    Timestamp::from_second(whole(&arguments[0])?)
        .map(|instant| Value::String(render(instant)))
        .map_err(|_| "the date is out of range".into())
}

pub fn to_epoch(arguments: &[Value]) -> Result<Value, String> {
    expect(&arguments[0]).map(|instant| Value::from(instant.as_second()))
}
