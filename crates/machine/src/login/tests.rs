//! The SSH client against a small server in this process, whose commands are words with a fixed
//! meaning.

use super::*;
use crate::seed::Keys;
use russh::ChannelId;
use russh::server::{self, Auth, Handler, Session, VerifiedPublicKey};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for a command to start on a connection that is there.
const SHORT: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Seen {
    connections: AtomicU32,
    kills: AtomicU32,
}

struct Server {
    client_key: KeyData,
    seen: Arc<Seen>,
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = user == "bullion" && *key.public_key.key_data() == self.client_key;
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<server::Msg>,
        reply: server::ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        match command {
            b"speak" => {
                session.data(channel, "out".as_bytes().to_vec())?;
                session.extended_data(channel, 1, "err".as_bytes().to_vec())?;
                session.exit_status_request(channel, 3)?;
            }
            b"crash" => {
                session.exit_signal_request(channel, Sig::SEGV, false, "", "")?;
            }
            b"hang" => {
                session.data(channel, "begun".as_bytes().to_vec())?;
                return Ok(());
            }
            b"drop" => return Err(russh::Error::Disconnect),
            _ => session.exit_status_request(channel, 0)?,
        }
        session.eof(channel)?;
        session.close(channel)
    }

    async fn signal(
        &mut self,
        _channel: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if matches!(signal, Sig::KILL) {
            self.seen.kills.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

struct Bench {
    _folder: TempDir,
    seen: Arc<Seen>,
    login: Login,
}

/// A server that shows `shown` as its host key and knows `known`, and a client with `ours`.
async fn bench(shown: &Keys, known: &Keys, folder: TempDir, ours: Keys) -> Bench {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(server::Config {
        keys: vec![shown.host.clone()],
        auth_rejection_time: Duration::ZERO,
        ..server::Config::default()
    });
    let client_key = known.login.public_key().key_data().clone();
    let seen = Arc::new(Seen::default());
    let for_server = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            for_server.connections.fetch_add(1, Ordering::SeqCst);
            let server = Server {
                client_key: client_key.clone(),
                seen: Arc::clone(&for_server),
            };
            let config = Arc::clone(&config);
            tokio::spawn(async move {
                if let Ok(session) = server::run_stream(config, stream, server).await {
                    drop(session.await);
                }
            });
        }
    });
    Bench {
        _folder: folder,
        seen,
        login: Login::new("vm", port, "bullion", ours),
    }
}

async fn good_bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let keys = || Keys::of(folder.path(), "vm").unwrap();
    let (shown, ours) = (keys(), keys());
    bench(&shown, &shown, folder, ours).await
}

#[tokio::test]
async fn commands_end_as_they_end_over_one_connection() {
    let bench = good_bench().await;
    let check = async |command: &str, expected: (u32, &str, &str)| {
        let output = bench.login.exec(command, PATIENCE).await.unwrap();
        let (status, stdout, stderr) = expected;
        assert_eq!(output.status, status);
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            (stdout, stderr)
        );
    };
    check("true", (0, "", "")).await;
    check("speak", (3, "out", "err")).await;
    check("crash", (139, "", "")).await;
    assert_eq!(bench.seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_late_command_is_killed_and_the_connection_serves_on() {
    let bench = good_bench().await;
    bench.login.exec("true", PATIENCE).await.unwrap();
    let error = bench.login.exec("hang", SHORT).await.unwrap_err();
    let MachineError::ExecDeadline { output, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(output, "begun");
    // An answer on the same connection comes after what was sent before it.
    bench.login.exec("true", PATIENCE).await.unwrap();
    assert_eq!(bench.seen.kills.load(Ordering::SeqCst), 1);
    assert_eq!(bench.seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lost_connection_is_an_error_then_a_new_connection() {
    let bench = good_bench().await;
    let error = bench.login.exec("drop", PATIENCE).await.unwrap_err();
    assert!(matches!(error, MachineError::Login { .. }), "{error}");
    let output = bench.login.exec("speak", PATIENCE).await.unwrap();
    assert_eq!(output.stdout, "out");
    assert_eq!(bench.seen.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let make = || {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::of(folder.path(), "vm").unwrap();
        (folder, keys)
    };
    let ((ours_at, ours), (_other_at, other)) = (make(), make());
    let same = Keys::of(ours_at.path(), "vm").unwrap();
    let impostor = bench(&other, &same, ours_at, ours).await;
    let error = impostor.login.exec("true", PATIENCE).await.unwrap_err();
    assert!(matches!(error, MachineError::HostKey { .. }), "{error}");

    let ((ours_at, ours), (_other_at, other)) = (make(), make());
    let same = Keys::of(ours_at.path(), "vm").unwrap();
    let closed = bench(&same, &other, ours_at, ours).await;
    let error = closed.login.exec("true", PATIENCE).await.unwrap_err();
    assert!(
        error.to_string().contains("does not accept the key"),
        "{error}"
    );
}
