//! Listening, and the connections that there are. What is said on them is in `handshake` and
//! `session`.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ServerConfig;

use crate::export::Exports;
use crate::handshake::{Security, negotiate};
use crate::link::{Link, Plain, Socket, lock};
use crate::pool::{Budget, Pool};
use crate::session::{self, Common};

/// The whole negotiation, TLS included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Accepting fails in bursts when descriptors run out; a pause keeps that from being a busy loop.
const ACCEPT_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// Stacks are small: nothing here goes deep.
const STACK: usize = 512 << 10;

/// Where clients come in.
#[derive(Debug, Clone)]
pub enum Listen {
    /// A socket file, which only this user may reach. One that nobody answers on is replaced.
    Unix(PathBuf),
    /// With TLS unless [`Options::tls`] says otherwise.
    Tcp(SocketAddr),
}

/// What clients on TCP must do.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// Whoever reaches the port reads the disks, and so does whoever listens on the way.
    #[default]
    None,
    /// Nothing before TLS. The configuration says who may come.
    Required(Arc<ServerConfig>),
}

#[derive(Debug, Clone)]
pub struct Options {
    pub tls: Tls,
    /// Connections at once; further ones are closed.
    pub connections: usize,
    /// Threads for what must wait.
    pub threads: usize,
    /// Memory for what is written and for large reads, in bytes.
    pub memory: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tls: Tls::None,
            connections: 256,
            threads: 16,
            memory: 256 << 20,
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the socket {} is in use by another server", path.display())]
    InUse { path: PathBuf },
    #[error("listen on the socket {}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("start the threads of the server")]
    Threads(#[source] io::Error),
}

/// A running server. Dropping it stops it.
pub struct Server {
    state: Arc<State>,
    /// Closing it wakes the threads that accept.
    wake: Option<UnixStream>,
    acceptors: Vec<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    sockets: Vec<PathBuf>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

struct State {
    exports: Arc<dyn Exports>,
    security: Option<Security>,
    common: Arc<Common>,
    most: usize,
    stopping: AtomicBool,
    next: AtomicU64,
    /// Sockets of the connections there are, to hang up on them.
    open: Mutex<HashMap<u64, Socket>>,
    closed: Condvar,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Server {
    /// Serves `exports` in threads of its own until it is stopped or dropped.
    pub fn start(
        listen: &[Listen],
        exports: Arc<dyn Exports>,
        options: Options,
    ) -> Result<Server, ServeError> {
        let pool = Pool::new(options.threads).map_err(ServeError::Threads)?;
        let security = match options.tls {
            Tls::None => None,
            Tls::Required(config) => Some(Security {
                config,
                is_required: true,
            }),
        };
        let state = Arc::new(State {
            exports,
            security,
            common: Arc::new(Common {
                pool,
                memory: Budget::new(options.memory),
            }),
            most: options.connections,
            stopping: AtomicBool::new(false),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            closed: Condvar::new(),
        });
        let (wake, woken) = UnixStream::pair().map_err(ServeError::Threads)?;
        let mut server = Server {
            state,
            wake: Some(wake),
            acceptors: Vec::new(),
            addresses: Vec::new(),
            sockets: Vec::new(),
        };
        for listen in listen {
            let listener = server.bind(listen)?;
            let (state, woken) = (Arc::clone(&server.state), woken.try_clone());
            let woken = woken.map_err(ServeError::Threads)?;
            let run = move || accept_all(&state, &listener, &woken);
            let thread = thread::Builder::new()
                .name("nbd-accept".to_owned())
                .spawn(run);
            server.acceptors.push(thread.map_err(ServeError::Threads)?);
        }
        Ok(server)
    }

    fn bind(&mut self, listen: &Listen) -> Result<Listener, ServeError> {
        match listen {
            Listen::Unix(path) => {
                let listener = bind_socket(path)?;
                self.sockets.push(path.clone());
                Ok(Listener::Unix(listener))
            }
            Listen::Tcp(address) => {
                let address = *address;
                let failed = |source| ServeError::Bind { address, source };
                let listener = TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                self.addresses.push(listener.local_addr().map_err(failed)?);
                Ok(Listener::Tcp(listener))
            }
        }
    }

    /// TCP addresses, in the order in which they were asked for, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Connections that there are now.
    pub fn connections(&self) -> usize {
        lock(&self.state.open).len()
    }

    /// Hangs up on everybody and waits until nothing of it is left.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        self.wake = None;
        for thread in self.acceptors.drain(..) {
            // It ends by itself; a panic in it has been told.
            let _ = thread.join();
        }
        for path in self.sockets.drain(..) {
            // Somebody may have removed it.
            let _ = std::fs::remove_file(path);
        }
        let mut open = lock(&self.state.open);
        for socket in open.values() {
            socket.shutdown();
        }
        while !open.is_empty() {
            let closed = &self.state.closed;
            open = closed.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A socket file that a server before us left is replaced; one that somebody answers on is not.
fn bind_socket(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Socket {
        path: path.to_owned(),
        source,
    };
    let name = path.file_name();
    let name = name.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    // The path of a socket may have 107 bytes, and folders may be deeper: it is reached through
    // the descriptor of its folder.
    let opened = File::open(parent.unwrap_or(Path::new("."))).map_err(failed)?;
    let folder = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let socket = folder.join(name);
    if UnixStream::connect(&socket).is_ok() {
        return Err(ServeError::InUse {
            path: path.to_owned(),
        });
    }
    let is_ours = |meta: std::fs::Metadata| meta.file_type().is_socket();
    if socket.exists() && !std::fs::symlink_metadata(&socket).is_ok_and(is_ours) {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    // Made where nobody else can come, so that it is never there with more rights than it keeps.
    let hidden = folder.join(format!(".nbd-{}", std::process::id()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&hidden)
        .map_err(failed)?;
    let bound = bind_in(&hidden, &socket);
    let removed = std::fs::remove_dir(&hidden);
    let listener = bound.map_err(failed)?;
    removed.map_err(failed)?;
    Ok(listener)
}

fn bind_in(hidden: &Path, socket: &Path) -> io::Result<UnixListener> {
    let made = hidden.join("s");
    let listener = UnixListener::bind(&made)?;
    std::fs::set_permissions(&made, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    std::fs::rename(&made, socket)?;
    Ok(listener)
}

fn accept_all(state: &Arc<State>, listener: &Listener, woken: &UnixStream) {
    loop {
        let fd = match listener {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        };
        let mut fds = [
            PollFd::from_borrowed_fd(fd, PollFlags::IN),
            PollFd::new(woken, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return tracing::error!(%error, "nobody is accepted any more"),
        }
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accept(listener) {
            Ok(socket) => state.welcome(socket, matches!(listener, Listener::Tcp(_))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                let mut fds = [PollFd::new(woken, PollFlags::IN)];
                // A pause, which the end of the server cuts short.
                let _ = poll(&mut fds, Some(&ACCEPT_PAUSE));
            }
        }
    }
}

fn accept(listener: &Listener) -> io::Result<Socket> {
    Ok(match listener {
        Listener::Unix(listener) => {
            let (socket, _) = listener.accept()?;
            socket.set_nonblocking(false)?;
            Socket::Unix(socket)
        }
        Listener::Tcp(listener) => {
            let (socket, _) = listener.accept()?;
            socket.set_nonblocking(false)?;
            Socket::Tcp(socket)
        }
    })
}

impl State {
    /// Gives a connection its thread.
    fn welcome(self: &Arc<Self>, socket: Socket, is_remote: bool) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut open = lock(&self.open);
            if open.len() >= self.most {
                drop(open);
                return tracing::warn!(connections = self.most, "a connection is one too many");
            }
            match socket.try_clone() {
                Ok(twin) => open.insert(number, twin),
                Err(error) => return tracing::warn!(%error, "cannot keep a connection"),
            };
        }
        let state = Arc::clone(self);
        let run = move || {
            // Also when it ends in a panic.
            let _leaving = Leaving {
                state: Arc::clone(&state),
                number,
            };
            match state.converse(socket, is_remote) {
                Ok(()) => tracing::debug!(number, "a client left"),
                Err(error) => tracing::debug!(number, %error, "a connection ended"),
            }
        };
        let thread = thread::Builder::new()
            .name(format!("nbd-{number}"))
            .stack_size(STACK);
        if let Err(error) = thread.spawn(run) {
            lock(&self.open).remove(&number);
            tracing::warn!(%error, "no thread for a connection");
        }
    }

    fn converse(&self, socket: Socket, is_remote: bool) -> io::Result<()> {
        let link: Arc<dyn Link> = Arc::new(Plain::new(socket)?);
        link.set_deadline(Some(Instant::now() + HANDSHAKE_TIMEOUT));
        // Who reaches the socket file is this user, and nobody listens on the way.
        let security = self.security.as_ref().filter(|_| is_remote);
        let agreed = negotiate(link, &*self.exports, security)?;
        let Some(agreed) = agreed else {
            return Ok(());
        };
        agreed.link.set_deadline(None);
        session::serve(agreed, &self.common)
    }
}

/// Says that a connection is over.
struct Leaving {
    state: Arc<State>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut open = lock(&self.state.open);
        if let Some(socket) = open.remove(&self.number) {
            // The twin would keep it open.
            socket.shutdown();
        }
        drop(open);
        self.state.closed.notify_all();
    }
}
