//! A connection as bytes: a socket, plain or under TLS. What the bytes mean is not known here.
//!
//! One thread receives while others send.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};

/// A peer that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// What is read from a socket under TLS at a time: one record.
const RECORD: usize = 16 << 10;
/// What goes into TLS at a time, so that it need not all be kept twice.
const SEND_STEP: usize = 64 << 10;

/// Both directions of a connection.
pub(crate) trait Link: Send + Sync {
    /// Some bytes, at least one; 0 when there are no more.
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// All of these, in order.
    fn send(&self, parts: &[&[u8]]) -> io::Result<()>;

    /// Until when something must have been received. Without one, a peer may stay silent.
    fn set_deadline(&self, deadline: Option<Instant>);
}

/// Fills `buf`, or it is an error.
pub(crate) fn recv_exact(link: &dyn Link, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match link.recv(buf)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => buf = &mut buf[len..],
        }
    }
    Ok(())
}

/// A socket of either family.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A socket, and until when it must speak.
#[derive(Debug)]
pub(crate) struct Plain {
    socket: Socket,
    deadline: Mutex<Option<Instant>>,
}

impl Socket {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(socket) => (&*socket).read(buf),
            Socket::Tcp(socket) => (&*socket).read(buf),
        }
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Unix(socket) => (&*socket).write_vectored(parts),
            Socket::Tcp(socket) => (&*socket).write_vectored(parts),
        }
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Unix(socket) => socket.set_read_timeout(timeout),
            Socket::Tcp(socket) => socket.set_read_timeout(timeout),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        match self {
            Socket::Unix(socket) => socket.set_write_timeout(Some(SEND_TIMEOUT)),
            Socket::Tcp(socket) => {
                socket.set_nodelay(true)?;
                // Who is gone without a word is found out by the kernel.
                rustix::net::sockopt::set_socket_keepalive(socket, true)?;
                socket.set_write_timeout(Some(SEND_TIMEOUT))
            }
        }
    }

    /// Ends both directions; whoever receives or sends is told.
    pub(crate) fn shutdown(&self) {
        // It may be closed already.
        let _ = match self {
            Socket::Unix(socket) => socket.shutdown(Shutdown::Both),
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Both),
        };
    }

    pub(crate) fn try_clone(&self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Unix(socket) => Socket::Unix(socket.try_clone()?),
            Socket::Tcp(socket) => Socket::Tcp(socket.try_clone()?),
        })
    }
}

impl Plain {
    pub(crate) fn new(socket: Socket) -> io::Result<Plain> {
        socket.prepare()?;
        Ok(Plain {
            socket,
            deadline: Mutex::new(None),
        })
    }
}

impl Link for Plain {
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let deadline = *lock(&self.deadline);
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.socket.set_read_timeout(Some(left))?;
            }
            match self.socket.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The time is up, which the next round says.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && deadline.is_some() => {}
                received => return received,
            }
        }
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.socket.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => IoSlice::advance_slices(&mut rest, sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        *lock(&self.deadline) = deadline;
        if deadline.is_none() {
            // If this fails the peer is cut off early, which is no more than a lost connection.
            let _ = self.socket.set_read_timeout(None);
        }
    }
}

/// A connection under TLS.
pub(crate) struct Secure {
    plain: Arc<dyn Link>,
    tls: Mutex<ServerConnection>,
    /// What came from the socket and is not decrypted yet. Only the receiver has it.
    sealed: Mutex<Sealed>,
}

struct Sealed {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Secure {
    /// Shakes hands, within the deadline of `plain`.
    pub(crate) fn accept(plain: Arc<dyn Link>, config: Arc<ServerConfig>) -> io::Result<Secure> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        let secure = Secure {
            plain,
            tls: Mutex::new(tls),
            sealed: Mutex::new(Sealed {
                buf: vec![0; RECORD],
                start: 0,
                end: 0,
            }),
        };
        while lock(&secure.tls).is_handshaking() {
            if !secure.feed()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(secure)
    }

    /// Gives TLS more of what was received. `false` at the end of it.
    fn feed(&self) -> io::Result<bool> {
        let mut sealed = lock(&self.sealed);
        let Sealed { buf, start, end } = &mut *sealed;
        if start == end {
            // Without the lock of TLS, so that others can send while we wait.
            (*start, *end) = (0, self.plain.recv(buf)?);
            if *end == 0 {
                return Ok(false);
            }
        }
        let mut tls = lock(&self.tls);
        let mut unread = &buf[*start..*end];
        *start += tls.read_tls(&mut unread)?;
        let processed = tls.process_new_packets();
        // An alert, if it went wrong.
        let flushed = self.flush(&mut tls);
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        flushed?;
        Ok(true)
    }

    fn flush(&self, tls: &mut ServerConnection) -> io::Result<()> {
        let mut sealed = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        match sealed.is_empty() {
            true => Ok(()),
            false => self.plain.send(&[&sealed]),
        }
    }
}

impl Link for Secure {
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match lock(&self.tls).reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
            if !self.feed()? {
                return Ok(0);
            }
        }
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut tls = lock(&self.tls);
        for step in parts.iter().flat_map(|part| part.chunks(SEND_STEP)) {
            tls.writer().write_all(step)?;
            self.flush(&mut tls)?;
        }
        Ok(())
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        self.plain.set_deadline(deadline);
    }
}

/// What is guarded is whole between any two statements, so a panic elsewhere leaves it sound.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
