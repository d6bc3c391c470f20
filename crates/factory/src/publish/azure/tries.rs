//! Requests that are tried again where the other side says that it is busy or says nothing.

use std::time::Duration;

use jobs::StepError;
use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode};

use super::fault;
use crate::pipeline::chain;

const TRIES_MAX: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Nobody is waited for longer, whatever it asks for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The first answer that is not about a moment's trouble. `request` is asked for each try.
pub async fn send(what: &str, request: impl Fn() -> RequestBuilder) -> Result<Response, StepError> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let answer = request().send().await;
        let last = attempt >= TRIES_MAX;
        let asked = match answer {
            Ok(answer) if last || !is_passing(answer.status()) => return Ok(answer),
            Ok(answer) => pause_of(&answer),
            Err(error) if last => return Err(fault(what, chain(&error.without_url()))),
            Err(_) => None,
        };
        tokio::time::sleep(asked.unwrap_or(pause).min(PAUSE_MAX)).await;
        pause *= 2;
    }
    Err(fault(what, "no answer"))
}

fn is_passing(status: StatusCode) -> bool {
    let busy = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    busy.contains(&status)
}

/// How long the other side asks to wait, in seconds.
pub fn pause_of(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_secs)
}
