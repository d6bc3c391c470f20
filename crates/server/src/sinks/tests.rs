//! Receivers that speak the real protocols on real sockets, and fail in every way that receivers do.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use catalog::{
    ActivityStatus, ActivityStore as _, Actor, Backend, Checkpoint, Entry, Linked, Note,
    SqliteCatalog,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;
use wire::TenantId;

use super::stream::{Stream, Waits};
use super::{Record, Sink, SinkAddress, Way, otlp};

const NODE: &str = "node";
const QUICK: Duration = Duration::from_millis(5);
/// A receiver that hangs is given up after this.
const DEADLINE: Duration = Duration::from_millis(500);

fn entry(number: u64) -> Entry {
    Entry {
        event: Uuid::nil(),
        id: format!("/r/{number}"),
        action: "Microsoft.Compute/galleries/write".into(),
        actor: Actor::Nobody,
        status: ActivityStatus::Refused,
        code: Some("AuthorizationFailed".into()),
        address: Some("192.0.2.1".into()),
        request: None,
        correlation: None,
        rights: Vec::new(),
        count: None,
    }
}

fn line() -> Linked {
    Linked {
        node: NODE.into(),
        seq: 7,
        at: 1_000_002,
        tenant: "t".into(),
        id_key: "/r/\"]\\\n".into(),
        body: serde_json::to_string(&entry(7)).unwrap(),
        hash: "abc".into(),
    }
}

fn end() -> Checkpoint {
    Checkpoint {
        node: NODE.into(),
        seq: 7,
        at: 2_000_000,
        hash: "abc".into(),
        signed: "s".into(),
    }
}

fn sink(address: &str) -> Sink {
    let address: SinkAddress = address.parse().unwrap();
    Sink {
        deadline: DEADLINE,
        ..Sink::new(&address).unwrap()
    }
}

#[test]
fn a_message_is_of_rfc_5424() {
    let check = |record: &Record, expected: &str| {
        let sink = sink("syslog://logs.example");
        let Way::Syslog(syslog) = &sink.way else {
            panic!("not syslog");
        };
        let message = syslog.message(record);
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        let process = std::process::id().to_string();
        let expected = expected.replace("HOST", &host).replace("PID", &process);
        assert_eq!(message, expected);
    };
    let text = line().body;
    check(
        &Record::of_line(line()),
        &format!(
            "<108>1 1970-01-01T00:00:01.000002Z HOST bullion PID Refused [activity@32473 node=\"node\" seq=\"7\" \
             at=\"1000002\" tenant=\"t\" idKey=\"/r/\\\"\\]\\\\\u{fffd}\" hash=\"abc\"] \u{feff}{text}"
        ),
    );
    check(
        &Record::of_checkpoint(end()),
        "<110>1 1970-01-01T00:00:02.000000Z HOST bullion PID Checkpoint [activity@32473 node=\"node\" seq=\"7\" \
         at=\"2000000\" hash=\"abc\"] \u{feff}{\"node\":\"node\",\"seq\":7,\"at\":2000000,\"hash\":\"abc\",\"signed\":\"s\"}",
    );
    let gap = Record::of_gap(NODE, 3, 5, Timestamp::UNIX_EPOCH);
    check(
        &gap,
        "<108>1 1970-01-01T00:00:00.000000Z HOST bullion PID Gap [activity@32473 node=\"node\" seq=\"5\" at=\"0\"] \
         \u{feff}{\"missing\":{\"first\":3,\"last\":5}}",
    );
}

#[test]
fn a_request_is_of_otlp() {
    let text = line().body;
    let seen = otlp::request(&[Record::of_line(line())]);
    let attribute =
        |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let number = |key: &str, value: &str| json!({ "key": key, "value": { "intValue": value } });
    let expected = json!({ "resourceLogs": [{
        "resource": { "attributes": [
            attribute("service.name", "bullion"),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.instance.id", NODE),
        ] },
        "scopeLogs": [{ "scope": { "name": "bullion.activity" }, "logRecords": [{
            "timeUnixNano": "1000002000",
            "severityNumber": 13,
            "severityText": "WARN",
            "eventName": "bullion.activity",
            "body": { "stringValue": text },
            "attributes": [
                number("bullion.seq", "7"),
                number("bullion.at", "1000002"),
                attribute("bullion.status", "Refused"),
                attribute("bullion.tenant", "t"),
                attribute("bullion.id_key", "/r/\"]\\\n"),
                attribute("bullion.hash", "abc"),
                attribute("bullion.resource.id", "/r/7"),
                attribute("bullion.action", "Microsoft.Compute/galleries/write"),
                attribute("error.type", "AuthorizationFailed"),
                attribute("client.address", "192.0.2.1"),
            ],
        }] }],
    }] });
    assert_eq!(seen, expected);
}

/// What a receiver does with the next connection.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Reads a little, then drops all of it.
    CutOff,
    /// Takes it and never says anything.
    Hangs,
    /// Answers HTTP with this status.
    Says(u16),
}

/// A receiver of syslog over a stream: ends the connection when it has read everything.
async fn takes_syslog(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    does: Option<Does>,
    got: &mpsc::UnboundedSender<u64>,
) {
    let mut bytes = Vec::new();
    match does {
        Some(Does::CutOff) => {
            let _ = stream.read_exact(&mut [0; 20]).await;
            return;
        }
        Some(_) => {
            let _ = stream.read_to_end(&mut bytes).await;
            return std::future::pending().await;
        }
        None => {}
    }
    stream.read_to_end(&mut bytes).await.unwrap();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&rest[..space])
            .unwrap()
            .parse()
            .unwrap();
        let (message, after) = rest[space + 1..].split_at(length);
        tell(std::str::from_utf8(message).unwrap(), got);
        rest = after;
    }
    // Dropped here without TLS's last word, as rsyslog does it.
}

/// The number of a message's line; checkpoints are not counted.
fn tell(message: &str, got: &mpsc::UnboundedSender<u64>) {
    if message.contains(" Refused [") {
        let (_, after) = message.split_once("seq=\"").unwrap();
        got.send(after.split_once('"').unwrap().0.parse().unwrap())
            .unwrap();
    }
}

/// A receiver of OTLP. Whatever has the line 3 in it is bad to it.
async fn takes_otlp(mut stream: TcpStream, does: Option<Does>, got: &mpsc::UnboundedSender<u64>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("post /v1/logs http/1.1\r\n"), "{head}");
    let (_, length) = head.split_once("content-length: ").unwrap();
    let mut body = vec![0; length.split_once("\r\n").unwrap().0.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let records = &body["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
    let lines = records.as_array().unwrap().iter();
    let lines = lines.filter(|record| record["attributes"][2]["value"]["stringValue"] == "Refused");
    let lines: Vec<u64> = lines
        .map(|record| {
            record["attributes"][0]["value"]["intValue"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    let answer = match does {
        Some(Does::CutOff) => "HTTP/1.1 20".to_owned(),
        Some(Does::Hangs) => std::future::pending().await,
        Some(Does::Says(status)) => {
            format!(
                "HTTP/1.1 {status} x\r\nretry-after: 0\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
        }
        None if lines.contains(&3) => {
            "HTTP/1.1 400 x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned()
        }
        None => {
            lines.iter().for_each(|seq| got.send(*seq).unwrap());
            let body = r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too old"}}"#;
            let length = body.len();
            format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        }
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[derive(Clone)]
enum Speaks {
    Syslog,
    SyslogTls(TlsAcceptor),
    Otlp,
}

/// Takes connections until the test ends.
fn receive(listener: TcpListener, speaks: Speaks, script: &[Does]) -> mpsc::UnboundedReceiver<u64> {
    let (got, receiver) = mpsc::unbounded_channel();
    let mut script: VecDeque<Does> = script.iter().copied().collect();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (does, speaks, got) = (script.pop_front(), speaks.clone(), got.clone());
            tokio::spawn(async move {
                match speaks {
                    Speaks::Syslog => takes_syslog(stream, does, &got).await,
                    Speaks::Otlp => takes_otlp(stream, does, &got).await,
                    // What a handshake has read beyond itself would not reset the connection.
                    Speaks::SyslogTls(_) if matches!(does, Some(Does::CutOff)) => drop(stream),
                    Speaks::SyslogTls(tls) => {
                        let stream = tls.accept(stream).await.unwrap();
                        takes_syslog(stream, does, &got).await;
                    }
                }
            });
        }
    });
    receiver
}

struct World {
    folder: tempfile::TempDir,
    catalog: Arc<dyn Backend>,
    address: SinkAddress,
    lines: u64,
}

struct Sending {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl World {
    async fn new(address: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(&folder.path().join("db"))
            .await
            .unwrap();
        catalog.keep_activity(NODE);
        let address: SinkAddress = address.parse().unwrap();
        let named = [address.to_string()];
        catalog.name_activity_sinks(NODE, &named).await.unwrap();
        World {
            folder,
            catalog: Arc::new(catalog),
            address,
            lines: 0,
        }
    }

    async fn add(&mut self, lines: u64) {
        let tenant = TenantId::random();
        let note = |number| Note {
            tenant,
            entry: entry(number),
        };
        let notes = (self.lines..self.lines + lines).map(note).collect();
        self.lines += lines;
        self.catalog.note(notes).await.unwrap();
        self.catalog
            .link_activity(&|_| "signed".into())
            .await
            .unwrap();
    }

    fn send(&self) -> Sending {
        let (stop, stopped) = watch::channel(false);
        let stream = Stream {
            catalog: Arc::clone(&self.catalog),
            node: NODE.into(),
            address: self.address.clone(),
            sink: sink(&self.address.to_string()),
            waits: Waits {
                round: QUICK,
                first: QUICK,
                most: QUICK,
            },
        };
        Sending {
            stop,
            task: stream.start(stopped),
        }
    }

    /// Waits until the catalog knows that the receiver has everything.
    async fn all_sent(&self) {
        let sink = self.address.to_string();
        while self.catalog.activity_sent(NODE, &sink).await.unwrap() != Some(self.lines) {
            tokio::time::sleep(QUICK).await;
        }
    }
}

impl Sending {
    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

/// What has come, each line once. Nothing may be missing but what the receiver never took.
fn check(got: &mut mpsc::UnboundedReceiver<u64>, expected: impl IntoIterator<Item = u64>) {
    let mut seen = Vec::new();
    while let Ok(seq) = got.try_recv() {
        seen.push(seq);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, expected.into_iter().collect::<Vec<_>>());
}

/// Lines arrive however often the receiver fails, also those that came while it or we were away.
async fn survives(
    address: &str,
    listener: TcpListener,
    speaks: Speaks,
    script: &[Does],
    lost: &[u64],
) {
    let mut world = World::new(address).await;
    world.add(4).await;
    let mut got = receive(listener, speaks, script);
    let sending = world.send();
    world.all_sent().await;
    sending.stop().await;
    let kept = |seq: &u64| !lost.contains(seq);
    check(&mut got, (1..=4).filter(kept));
    world.add(3).await;
    let sending = world.send();
    world.all_sent().await;
    // More than one batch.
    world.add(700).await;
    world.all_sent().await;
    sending.stop().await;
    check(&mut got, 5..=707);
}

const FAULTS: &[Does] = &[Does::CutOff, Does::Hangs, Does::CutOff];

#[tokio::test]
async fn syslog_over_tcp_survives_its_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("syslog+tcp://{}", listener.local_addr().unwrap());
    survives(&address, listener, Speaks::Syslog, FAULTS, &[]).await;
}

#[tokio::test]
async fn syslog_over_tls_survives_its_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let identity = crate::net::tls::identity(folder.path(), &[], Timestamp::now()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, ca) = (
        listener.local_addr().unwrap().port(),
        identity.ca_path.display(),
    );
    let address = format!("syslog+tls://127.0.0.1:{port}?ca={ca}");
    let speaks = Speaks::SyslogTls(TlsAcceptor::from(identity.config));
    survives(&address, listener, speaks, FAULTS, &[]).await;
}

#[tokio::test]
async fn otlp_survives_its_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("otlp+http://{}", listener.local_addr().unwrap());
    let script = [
        Does::Says(503),
        Does::CutOff,
        Does::Hangs,
        Does::Says(429),
        Does::Says(401),
    ];
    // The line that the receiver takes in no company is left out, and told in our log.
    survives(&address, listener, Speaks::Otlp, &script, &[3]).await;
}

#[tokio::test]
async fn a_receiver_that_refuses_gets_everything_when_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let mut world = World::new(&format!("syslog+tcp://{at}")).await;
    world.add(4).await;
    let record = [Record::of_line(line())];
    let refused = sink(&world.address.to_string()).send(&record).await;
    assert!(
        matches!(refused, Err(super::SendError::Connect(_))),
        "{refused:?}"
    );
    let sending = world.send();
    let mut got = receive(TcpListener::bind(at).await.unwrap(), Speaks::Syslog, &[]);
    world.all_sent().await;
    sending.stop().await;
    check(&mut got, 1..=4);
}

#[tokio::test]
async fn datagrams_are_one_message_each() {
    async fn receives(world: &mut World, path: Option<&Path>, udp: Option<UdpSocket>) {
        let unix = path.map(|path| UnixDatagram::bind(path).unwrap());
        world.add(4).await;
        let sending = world.send();
        let (got, mut seen) = mpsc::unbounded_channel();
        // Four lines and their checkpoint.
        for _ in 0..5 {
            let mut bytes = [0; 8192];
            let length = match (&unix, &udp) {
                (Some(socket), _) => socket.recv(&mut bytes).await.unwrap(),
                (None, Some(socket)) => socket.recv(&mut bytes).await.unwrap(),
                (None, None) => panic!("no socket"),
            };
            tell(std::str::from_utf8(&bytes[..length]).unwrap(), &got);
        }
        world.all_sent().await;
        sending.stop().await;
        check(&mut seen, 1..=4);
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = format!("syslog://{}", socket.local_addr().unwrap());
    receives(&mut World::new(&address).await, None, Some(socket)).await;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut world = World::new(&format!("syslog+unix://{}", path.display())).await;
    let refused = sink(&world.address.to_string())
        .send(&[Record::of_line(line())])
        .await;
    assert!(
        matches!(refused, Err(super::SendError::Connect(_))),
        "{refused:?}"
    );
    receives(&mut world, Some(&path), None).await;
    drop(world.folder);
}
