//! A client: enough to read, write and ask for block status, one request after the other or many
//! at once. For tests and measurements; machines have their own.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use disk::{ReadAt, check_range};

use crate::link::{Link, Plain, Socket, lock, recv_exact};
use crate::protocol::{
    ALLOCATION, CHUNK_MAGIC, Fields, MAGIC, MAX_PAYLOAD, NbdError, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, Request, SIMPLE_REPLY_MAGIC, chunk, command, command_flag, hello, info,
    option, reply, transmission,
};

/// Replies to one option that are read before its end.
const MAX_REPLIES: usize = 1000;
/// What one reply to an option may carry.
const MAX_REPLY: u32 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("talk to the server")]
    Io(#[from] io::Error),
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the server refused: {0}")]
    Refused(String),
    #[error("the request failed: {0}")]
    Request(NbdError),
}

/// A part of a disk, as the server says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub range: Range<u64>,
    pub is_hole: bool,
}

/// A connection to one disk.
pub struct Client {
    link: Plain,
    size: u64,
    flags: u16,
    next: u64,
    has_status: bool,
    /// Requests that were sent and not answered.
    open: BTreeMap<u64, Open>,
}

struct Open {
    request: Request,
    data: Vec<u8>,
    status: Vec<Status>,
    error: Option<NbdError>,
}

impl Client {
    pub fn connect_unix(path: &Path, name: &str) -> Result<Client, ClientError> {
        Client::start(Socket::Unix(UnixStream::connect(path)?), name)
    }

    pub fn connect_tcp(address: SocketAddr, name: &str) -> Result<Client, ClientError> {
        Client::start(Socket::Tcp(TcpStream::connect(address)?), name)
    }

    fn start(socket: Socket, name: &str) -> Result<Client, ClientError> {
        let mut client = Client {
            link: Plain::new(socket)?,
            size: 0,
            flags: 0,
            next: 1,
            has_status: false,
            open: BTreeMap::new(),
        };
        client.negotiate(name)?;
        Ok(client)
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn is_writable(&self) -> bool {
        self.flags & transmission::READ_ONLY == 0
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, ClientError> {
        self.send_read(offset, len)?;
        self.receive_read()
    }

    /// Asks for a range and does not wait; [`Client::receive_read`] takes the answers.
    pub fn send_read(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.send(command::READ, 0, offset, len, &[]).map(drop)
    }

    /// The next answered read, whichever it is.
    pub fn receive_read(&mut self) -> Result<Vec<u8>, ClientError> {
        Ok(self.receive()?.data)
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ClientError> {
        let len = u32::try_from(bytes.len()).map_err(|_| ClientError::Protocol("too long"))?;
        self.send(command::WRITE, 0, offset, len, bytes)?;
        self.receive().map(drop)
    }

    pub fn zero(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.send(command::WRITE_ZEROES, 0, offset, len, &[])?;
        self.receive().map(drop)
    }

    pub fn trim(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.send(command::TRIM, command_flag::FUA, offset, len, &[])?;
        self.receive().map(drop)
    }

    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.send(command::FLUSH, 0, 0, 0, &[])?;
        self.receive().map(drop)
    }

    pub fn load(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.send(command::CACHE, 0, offset, len, &[])?;
        self.receive().map(drop)
    }

    /// What a range is made of. The server may say less than was asked for.
    pub fn status(&mut self, offset: u64, len: u32) -> Result<Vec<Status>, ClientError> {
        if !self.has_status {
            return Err(ClientError::Refused("no block status".to_owned()));
        }
        self.send(command::BLOCK_STATUS, 0, offset, len, &[])?;
        Ok(self.receive()?.status)
    }

    /// Says goodbye. A dropped client just hangs up.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.send(command::DISCONNECT, 0, 0, 0, &[]).map(drop)
    }

    fn negotiate(&mut self, name: &str) -> Result<(), ClientError> {
        let mut greeting = [0; 18];
        recv_exact(&self.link, &mut greeting)?;
        let mut fields = Fields(&greeting);
        if (fields.u64(), fields.u64()) != (Some(MAGIC), Some(OPTION_MAGIC)) {
            return Err(ClientError::Protocol("it is no server of this protocol"));
        }
        let flags = fields.u16().unwrap_or_default() & (hello::FIXED_NEWSTYLE | hello::NO_ZEROES);
        self.link.send(&[&u32::from(flags).to_be_bytes()])?;
        self.option(option::STRUCTURED_REPLY, &[])?;
        let len = (name.len() as u32).to_be_bytes();
        let context = (ALLOCATION.len() as u32).to_be_bytes();
        let one = 1u32.to_be_bytes();
        let query = [&len, name.as_bytes(), &one, &context, ALLOCATION.as_bytes()].concat();
        let contexts = self.option(option::SET_META_CONTEXT, &query)?;
        self.has_status = !contexts.is_empty();
        let go = [&len, name.as_bytes(), &0u16.to_be_bytes()].concat();
        for found in self.option(option::GO, &go)? {
            let mut fields = Fields(&found);
            if fields.u16() == Some(info::EXPORT) {
                self.size = fields.u64().ok_or(ClientError::Protocol("no size"))?;
                self.flags = fields.u16().ok_or(ClientError::Protocol("no flags"))?;
            }
        }
        Ok(())
    }

    /// Sends an option and returns what came before the end of its answer.
    fn option(&self, number: u32, data: &[u8]) -> Result<Vec<Vec<u8>>, ClientError> {
        self.link.send(&[
            &OPTION_MAGIC.to_be_bytes(),
            &number.to_be_bytes(),
            &(data.len() as u32).to_be_bytes(),
            data,
        ])?;
        let mut found = Vec::new();
        for _ in 0..MAX_REPLIES {
            let mut head = [0; 20];
            recv_exact(&self.link, &mut head)?;
            let mut fields = Fields(&head);
            let is_ours = (fields.u64(), fields.u32()) == (Some(OPTION_REPLY_MAGIC), Some(number));
            let (kind, len) = (fields.u32(), fields.u32());
            let (true, Some(kind), Some(len @ 0..=MAX_REPLY)) = (is_ours, kind, len) else {
                return Err(ClientError::Protocol("that is no answer to an option"));
            };
            let mut data = vec![0; len as usize];
            recv_exact(&self.link, &mut data)?;
            match kind {
                reply::ACK => return Ok(found),
                reply::SERVER | reply::INFO | reply::META_CONTEXT => found.push(data),
                _ => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    return Err(ClientError::Refused(text));
                }
            }
        }
        Err(ClientError::Protocol("answers without end"))
    }

    fn send(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<u64, ClientError> {
        let cookie = self.next;
        self.next += 1;
        let request = Request {
            flags,
            command,
            cookie,
            offset,
            len,
        };
        self.link.send(&[&request.encode(), payload])?;
        let data = match command {
            command::READ => vec![0; len as usize],
            _ => Vec::new(),
        };
        let open = Open {
            request,
            data,
            status: Vec::new(),
            error: None,
        };
        self.open.insert(cookie, open);
        Ok(cookie)
    }

    fn receive(&mut self) -> Result<Open, ClientError> {
        loop {
            let mut head = [0; 16];
            recv_exact(&self.link, &mut head)?;
            let mut fields = Fields(&head);
            let cookie = match fields.u32() {
                Some(CHUNK_MAGIC) => self.chunk(fields)?,
                Some(SIMPLE_REPLY_MAGIC) => Some(self.simple(fields)?),
                _ => return Err(ClientError::Protocol("that is no reply")),
            };
            let Some(cookie) = cookie else { continue };
            let open = self.open.remove(&cookie);
            let open = open.ok_or(ClientError::Protocol("a reply to nothing"))?;
            if let Some(error) = open.error {
                return Err(ClientError::Request(error));
            }
            return Ok(open);
        }
    }

    fn simple(&mut self, mut fields: Fields<'_>) -> Result<u64, ClientError> {
        let (error, cookie) = (fields.u32(), fields.u64());
        let cookie = cookie.unwrap_or_default();
        let open = self.open.get_mut(&cookie);
        let open = open.ok_or(ClientError::Protocol("a reply to nothing"))?;
        match error.unwrap_or_default() {
            0 if open.request.command == command::READ => {
                recv_exact(&self.link, &mut open.data)?;
            }
            0 => {}
            error => open.error = Some(NbdError::from_number(error)),
        }
        Ok(cookie)
    }

    /// One chunk; the cookie if it was the last of its reply.
    fn chunk(&mut self, mut fields: Fields<'_>) -> Result<Option<u64>, ClientError> {
        let head = (|| Some((fields.u16()?, fields.u16()?, fields.u64()?)))();
        let (flags, kind, cookie) = head.ok_or(ClientError::Protocol("a short chunk"))?;
        let mut len = [0; 4];
        recv_exact(&self.link, &mut len)?;
        let len = u32::from_be_bytes(len);
        if len > MAX_PAYLOAD + 8 {
            return Err(ClientError::Protocol("a chunk is too long"));
        }
        let open = self.open.get_mut(&cookie);
        let open = open.ok_or(ClientError::Protocol("a reply to nothing"))?;
        let wrong = ClientError::Protocol("a chunk does not fit its request");
        if kind == chunk::OFFSET_DATA {
            let mut offset = [0; 8];
            recv_exact(&self.link, &mut offset)?;
            let at = u64::from_be_bytes(offset).checked_sub(open.request.offset);
            let data = at.and_then(|at| {
                let start = usize::try_from(at).ok()?;
                open.data
                    .get_mut(start..start + len.checked_sub(8)? as usize)
            });
            recv_exact(&self.link, data.ok_or(wrong)?)?;
        } else {
            let mut payload = vec![0; len as usize];
            recv_exact(&self.link, &mut payload)?;
            open.take(kind, &payload).ok_or(wrong)?;
        }
        Ok((flags & chunk::DONE != 0).then_some(cookie))
    }
}

impl Open {
    /// A chunk without data.
    fn take(&mut self, kind: u16, payload: &[u8]) -> Option<()> {
        let mut fields = Fields(payload);
        match kind {
            chunk::NONE | chunk::OFFSET_HOLE => {}
            chunk::BLOCK_STATUS => {
                fields.u32()?;
                let mut at = self.request.offset;
                while !fields.is_empty() {
                    let (len, state) = (fields.u32()?, fields.u32()?);
                    let end = at + u64::from(len);
                    self.status.push(Status {
                        range: at..end,
                        is_hole: state != 0,
                    });
                    at = end;
                }
            }
            _ if kind & (1 << 15) != 0 => {
                self.error = Some(NbdError::from_number(fields.u32()?));
            }
            _ => return None,
        }
        Some(())
    }
}

/// A disk on a server, read like any other, one request after the other.
pub struct RemoteDisk {
    client: Mutex<Client>,
    size: u64,
}

impl RemoteDisk {
    pub fn connect_unix(path: &Path, name: &str) -> Result<RemoteDisk, ClientError> {
        let client = Client::connect_unix(path, name)?;
        let size = client.size();
        let client = Mutex::new(client);
        Ok(RemoteDisk { client, size })
    }
}

impl ReadAt for RemoteDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len())?;
        let mut client = lock(&self.client);
        let mut at = offset;
        for part in buf.chunks_mut(MAX_PAYLOAD as usize) {
            let read = client
                .read(at, part.len() as u32)
                .map_err(io::Error::other)?;
            part.copy_from_slice(&read);
            at += part.len() as u64;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = offset;
        while at < self.size {
            let len = (self.size - at).min(u64::from(MAX_PAYLOAD)) as u32;
            let parts = lock(&self.client)
                .status(at, len)
                .map_err(io::Error::other)?;
            let Some(last) = parts.last() else { break };
            let end = last.range.end;
            if let Some(data) = parts.into_iter().find(|part| !part.is_hole) {
                return Ok(Some(data.range));
            }
            at = end;
        }
        Ok((at < self.size).then_some(at..self.size))
    }
}
