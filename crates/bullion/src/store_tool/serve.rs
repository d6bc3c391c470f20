//! `store serve`: disks as network block devices until Ctrl-C.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cli::io::{Format as Shown, Io};
use disk::{DiskDigest, ReadAt};
use nbd::{Export, ExportMap, Listen, Options, Server, Tls};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use store::{FrameSource, Overlay, ServedDisk, Serving, Store};

use super::watch::cpu_seconds;
use super::{At, find, open, short};
use crate::offline::Failure;

#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Ids or digests of the disks, or the beginnings of them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,

    #[command(flatten)]
    at: At,

    /// Socket file to make, which only this user may reach
    #[arg(long, value_name = "PATH", required_unless_present = "listen")]
    socket: Option<PathBuf>,

    /// Address for other hosts, with TLS; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", requires_all = ["certificate", "key"])]
    listen: Option<SocketAddr>,

    /// Certificate of this server with its chain, PEM
    #[arg(long, value_name = "FILE", requires = "listen")]
    certificate: Option<PathBuf>,

    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "listen")]
    key: Option<PathBuf>,

    /// Let only clients in that show a certificate of this authority, PEM; without it, whoever reaches the address reads
    #[arg(long, value_name = "FILE", requires = "listen")]
    client_ca: Option<PathBuf>,

    /// Let clients write; what they write goes to this file and FILE.map, which are made if they are not there
    #[arg(long, value_name = "FILE")]
    changes: Option<PathBuf>,

    /// Memory for decompressed data, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    cache: u64,

    /// At the end, keep what was read, in its order, as the disk's boot trace
    #[arg(long, conflicts_with = "changes")]
    record_trace: bool,
}

/// One disk and the names it goes by.
struct Offered {
    digest: DiskDigest,
    disk: Arc<ServedDisk>,
    changes: Option<Arc<Overlay>>,
}

pub(super) fn serve(args: &Serve, io: &mut Io) -> Result<(), Failure> {
    let stop = stop_signal()?;
    let store = open(&args.at, io)?;
    let failed = |error| Failure::new("cannot start the threads that read ahead", error);
    let serving = Serving::with_cache(args.cache << 20).map_err(failed)?;
    let offered = offer(args, &store, &serving)?;
    let exports = Arc::new(ExportMap::new());
    for offered in &offered {
        let export: Arc<dyn Export> = match &offered.changes {
            Some(changes) => Arc::clone(changes) as Arc<dyn Export>,
            None => Arc::clone(&offered.disk) as Arc<dyn Export>,
        };
        exports.put(short(&offered.digest), export);
    }
    let listen: Vec<Listen> = args
        .socket
        .iter()
        .map(|path| Listen::Unix(path.clone()))
        .chain(args.listen.map(Listen::Tcp))
        .collect();
    let options = Options {
        tls: tls(args)?,
        ..Options::default()
    };
    let server = Server::start(&listen, exports, options)
        .map_err(|error| Failure::new("cannot serve", error))?;
    tell(args, &offered, &server, io)?;
    wait(stop)?;
    server.stop();
    end(args, &store, &serving, &offered, io)
}

fn offer(args: &Serve, store: &Store, serving: &Serving) -> Result<Vec<Offered>, Failure> {
    if args.changes.is_some() && args.ids.len() > 1 {
        return Err(Failure::usage("only one disk can be written to: name one"));
    }
    let source: Arc<dyn FrameSource> = Arc::new(store.clone());
    let mut offered = Vec::new();
    for id in &args.ids {
        let digest = find(store, id)?;
        let disk = serving.disk(&source, &digest);
        let disk = Arc::new(disk.map_err(|error| Failure::new("cannot open the disk", error))?);
        if args.record_trace {
            disk.record();
        }
        let changes = args.changes.as_deref();
        let changes = changes
            .map(|file| writable(file, &digest, &disk))
            .transpose()?;
        offered.push(Offered {
            digest,
            disk,
            changes,
        });
    }
    Ok(offered)
}

fn writable(
    file: &Path,
    digest: &DiskDigest,
    disk: &Arc<ServedDisk>,
) -> Result<Arc<Overlay>, Failure> {
    let parent = Arc::clone(disk) as Arc<dyn Export>;
    let overlay = match file.exists() {
        true => Overlay::open(file, parent),
        false => Overlay::create(file, *digest, parent, disk.size()),
    };
    let overlay =
        overlay.map_err(|error| Failure::new(format!("cannot use `{}`", file.display()), error))?;
    match overlay.base() == digest {
        true => Ok(Arc::new(overlay)),
        false => Err(Failure::plain(format!(
            "`{}` has changes to the disk {}, not to {}",
            file.display(),
            short(overlay.base()),
            short(digest)
        ))),
    }
}

fn tls(args: &Serve) -> Result<Tls, Failure> {
    let (Some(certificate), Some(key)) = (&args.certificate, &args.key) else {
        return Ok(Tls::None);
    };
    let read = |path: &PathBuf| {
        let read = fs::read(path);
        read.map_err(|error| Failure::new(format!("cannot read `{}`", path.display()), error))
    };
    let authority = args.client_ca.as_ref().map(read).transpose()?;
    Tls::from_pem(&read(certificate)?, &read(key)?, authority.as_deref())
        .map_err(|error| Failure::new("cannot set up TLS", error))
}

/// How clients reach a disk.
fn urls(args: &Serve, digest: &DiskDigest, server: &Server) -> Vec<String> {
    let name = short(digest);
    let socket = args.socket.iter().map(|path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        format!("nbd+unix:///{name}?socket={}", path.display())
    });
    let addresses = server.addresses().iter();
    let addresses = addresses.map(|address| format!("nbds://{address}/{name}"));
    socket.chain(addresses).collect()
}

fn tell(args: &Serve, offered: &[Offered], server: &Server, io: &mut Io) -> Result<(), Failure> {
    match io.format {
        Shown::Json => {
            let disks: Vec<Value> = offered
                .iter()
                .map(|offered| {
                    json!({
                        "id": short(&offered.digest),
                        "digest": offered.digest.to_string(),
                        "sizeBytes": offered.disk.size(),
                        "writable": offered.changes.is_some(),
                        "urls": urls(args, &offered.digest, server),
                    })
                })
                .collect();
            // One line each: the reader of a pipe must know where the first one ends.
            io.line(json!({ "serving": disks }).to_string())?;
        }
        Shown::Table => {
            for offered in offered {
                for url in urls(args, &offered.digest, server) {
                    io.line(url)?;
                }
            }
            io.say("Serving until Ctrl-C.");
        }
    }
    Ok(())
}

fn end(
    args: &Serve,
    store: &Store,
    serving: &Serving,
    offered: &[Offered],
    io: &mut Io,
) -> Result<(), Failure> {
    let mut traced = 0;
    let mut changed = 0;
    for offered in offered {
        if args.record_trace {
            let trace = offered.disk.recorded();
            traced += trace.bytes();
            let kept = store.put_trace(&offered.digest, &trace);
            kept.map_err(|error| Failure::new("cannot keep the boot trace", error))?;
        }
        if let Some(changes) = &offered.changes {
            let flushed = changes.flush();
            flushed.map_err(|error| Failure::new("cannot keep what was written", error))?;
            changed += changes.changed_bytes();
        }
    }
    let stats = serving.stats();
    match io.format {
        Shown::Json => {
            let ended = json!({
                "readBytes": stats.asked_bytes + stats.ahead_bytes,
                "cache": stats,
                "tracedBytes": traced,
                "changedBytes": changed,
                "cpuSeconds": cpu_seconds(),
            });
            io.line(json!({ "ended": ended }).to_string())?;
        }
        Shown::Table => io.say(format!(
            "Read {} bytes from the store, {} of them ahead; {} frames were found in memory.",
            stats.asked_bytes + stats.ahead_bytes,
            stats.ahead_bytes,
            stats.hits
        )),
    }
    Ok(())
}

/// A stream that has something to read once the user wants to stop.
fn stop_signal() -> Result<UnixStream, Failure> {
    let watch = || {
        let (heard, rung) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, rung.try_clone()?)?;
        }
        Ok(heard)
    };
    watch().map_err(|error: std::io::Error| Failure::new("cannot watch for Ctrl-C", error))
}

fn wait(mut stop: UnixStream) -> Result<(), Failure> {
    let mut rung = [0];
    let heard = stop.read_exact(&mut rung);
    heard.map_err(|error| Failure::new("cannot watch for Ctrl-C", error))
}
