//! A web server for tests: whoever starts it says what each request is answered with. Must not know any interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A request.
#[derive(Debug)]
pub struct Asked {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What it is answered with.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Answer {
    pub fn of(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Answer {
        Answer {
            body: body.to_string(),
            ..Answer::of(status)
        }
    }
}

/// Answers until the test ends. Gives `host:port`.
pub async fn serve(answer: impl Fn(Asked) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(connection(stream, move |asked| answer(asked)));
        }
    });
    host
}

async fn connection(mut stream: TcpStream, answer: impl Fn(Asked) -> Answer) {
    let mut bytes: Vec<u8> = Vec::new();
    let mut piece = vec![0u8; 1 << 16];
    loop {
        let end = bytes.windows(4).position(|four| four == END_OF_HEAD);
        let Some(end) = end else {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(length) => bytes.extend(&piece[..length]),
            }
            continue;
        };
        let mut asked = head(&String::from_utf8_lossy(&bytes[..end]));
        let (body, length) = (end + END_OF_HEAD.len(), asked.header("content-length"));
        let whole = body + length.parse::<usize>().unwrap_or(0);
        while bytes.len() < whole {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(length) => bytes.extend(&piece[..length]),
            }
        }
        asked.body = bytes.drain(..whole).skip(body).collect();
        let is_head = asked.method == "HEAD";
        let answer = answer(asked);
        let mut text = format!("HTTP/1.1 {} x\r\n", answer.status);
        let own_length = answer
            .headers
            .iter()
            .any(|(name, _)| *name == "content-length");
        if !own_length {
            text += &format!("content-length: {}\r\n", answer.body.len());
        }
        for (name, value) in &answer.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        if !is_head {
            text += &answer.body;
        }
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn head(text: &str) -> Asked {
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(':'));
    Asked {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect(),
        body: Vec::new(),
    }
}
