//! QEMU's control socket: one short conversation per command. It must not keep the connection:
//! QEMU serves one client at a time, and after a restart of ours that must be the new process.

use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

pub(super) const SOCKET: &str = "qmp.sock";
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// QEMU's answers to our commands are a few hundred bytes; its events too.
const MAX_LINE: u64 = 256 * 1024;
/// Events may come before an answer.
const MAX_EVENTS: usize = 1000;

/// Runs one command on the machine of this folder and returns its answer.
pub(super) async fn run(dir: &Path, command: &str) -> io::Result<Value> {
    run_with(dir, command, json!({})).await
}

/// The same with arguments.
pub(super) async fn run_with(dir: &Path, command: &str, arguments: Value) -> io::Result<Value> {
    let conversation = async {
        let mut stream = BufReader::new(connect(dir, SOCKET).await?);
        let greeting = read(&mut stream).await?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other("what answers is not QEMU"));
        }
        ask(&mut stream, "qmp_capabilities", json!({})).await?;
        ask(&mut stream, command, arguments).await
    };
    let ended = tokio::time::timeout(ANSWER_DEADLINE, conversation).await;
    ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A socket's path may have 107 bytes, a machine's folder may be deeper: the folder is opened and
/// the socket reached through the descriptor.
pub(crate) async fn connect(dir: &Path, socket: &str) -> io::Result<UnixStream> {
    let folder = File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{socket}", folder.as_raw_fd());
    UnixStream::connect(path).await
}

async fn ask(
    stream: &mut BufReader<UnixStream>,
    command: &str,
    arguments: Value,
) -> io::Result<Value> {
    let line = json!({ "execute": command, "arguments": arguments });
    let line = format!("{line}\n");
    stream.write_all(line.as_bytes()).await?;
    for _ in 0..MAX_EVENTS {
        let mut answer = read(stream).await?;
        if let Some(value) = answer.get_mut("return") {
            return Ok(value.take());
        }
        if let Some(error) = answer.get("error") {
            return Err(io::Error::other(error["desc"].to_string()));
        }
    }
    Err(io::Error::other("events without end"))
}

async fn read(stream: &mut BufReader<UnixStream>) -> io::Result<Value> {
    let mut line = String::new();
    let mut limited = stream.take(MAX_LINE);
    limited.read_line(&mut line).await?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A QEMU that says these lines, one after each line that it hears, and hangs up after the last.
    async fn check(lines: &'static [&'static str], expected: Result<Value, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep".repeat(40));
        std::fs::create_dir(&deep).unwrap();
        let short = folder.path().join("s");
        let listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, deep.join(SOCKET)).unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            for (before, text) in lines.iter().enumerate() {
                let mut heard = String::new();
                if before > 0 && stream.read_line(&mut heard).await.unwrap_or(0) == 0 {
                    break;
                }
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            drop(stream);
        };
        let (answer, ()) = tokio::join!(run(&deep, "query-status"), server);
        match (answer, expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[tokio::test]
    async fn speaks_with_qemu_and_refuses_others() {
        const HELLO: &str = "{\"QMP\":{\"version\":{}}}\n";
        const OK: &str = "{\"return\":{}}\n";
        check(
            &[
                HELLO,
                OK,
                "{\"event\":\"X\"}\n{\"return\":{\"status\":\"running\"}}\n",
            ],
            Ok(json!({"status": "running"})),
        )
        .await;
        check(
            &[HELLO, OK, "{\"error\":{\"desc\":\"no such\"}}\n"],
            Err("no such"),
        )
        .await;
        check(&["SSH-2.0-x\n"], Err("expected")).await;
        check(&["{}\n"], Err("not QEMU")).await;
        check(&["{\"QMP\""], Err("end of file")).await;
    }
}
