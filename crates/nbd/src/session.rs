//! Requests and replies on one disk, until the client leaves.
//!
//! What is in memory is answered by the thread that receives, many replies in one send. What must
//! wait goes to the pool, so that it holds up nothing else; replies come in any order.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::export::{Export, extents};
use crate::handshake::Agreed;
use crate::link::{Link, lock, recv_exact};
use crate::pool::{Budget, Pool, Share};
use crate::protocol::{
    ALLOCATION_ID, MAX_PAYLOAD, NbdError, REQUEST_LEN, Request, STATE_HOLE_ZERO, chunk, chunk_head,
    command, command_flag, simple_head,
};

/// Requests of one connection that are being worked on.
const MAX_OPEN: u64 = 64;
/// What is received at a time.
const RECEIVE: usize = 64 << 10;
/// Replies are sent when so much has gathered, or when there is no request left to answer.
const SEND_AT: usize = 128 << 10;
/// Reads up to this are answered at once if they are in memory.
const MAX_INLINE: u32 = 256 << 10;
/// Reads from this on are sent in parts, and without their holes.
const SPLIT_FROM: u32 = 64 << 10;
/// Data in one part of a reply.
const PART: u64 = 1 << 20;
/// Parts of a disk in one reply about block status.
const MAX_EXTENTS: usize = 1024;
/// What belongs to a request must come within this.
const PAYLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What connections of a server share.
pub(crate) struct Common {
    pub(crate) pool: Pool,
    /// Memory for what is written and what cannot be read in parts, in bytes.
    pub(crate) memory: Arc<Budget>,
}

/// One connection after its negotiation.
struct Session {
    link: Arc<dyn Link>,
    export: Arc<dyn Export>,
    is_structured: bool,
    has_status: bool,
    common: Arc<Common>,
    /// Replies must not be cut by others.
    sending: Mutex<()>,
    open: Arc<Budget>,
}

/// Serves until the client leaves or breaks the rules.
pub(crate) fn serve(agreed: Agreed, common: &Arc<Common>) -> io::Result<()> {
    let Agreed {
        link,
        export,
        is_structured,
        has_status,
    } = agreed;
    export.attached();
    let session = Arc::new(Session {
        link,
        export,
        is_structured,
        has_status,
        common: Arc::clone(common),
        sending: Mutex::new(()),
        open: Budget::new(MAX_OPEN),
    });
    let ended = Receiver::new(&session).run();
    // Nothing of this connection goes on after it.
    session.open.wait_whole();
    ended
}

/// The receiving thread's own: what came in, and replies that wait to be sent together.
struct Receiver<'a> {
    session: &'a Arc<Session>,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
}

/// Whether there will be another request.
enum Next {
    More,
    End,
}

impl<'a> Receiver<'a> {
    fn new(session: &'a Arc<Session>) -> Self {
        Receiver {
            session,
            buf: vec![0; RECEIVE],
            start: 0,
            end: 0,
            out: Vec::new(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let Some(head) = self.head()? else {
                return Ok(());
            };
            let Some(request) = Request::parse(&head) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not a request"));
            };
            match self.take(request)? {
                Next::More => {}
                Next::End => return self.send(),
            }
        }
    }

    /// The next request; `None` when the client has hung up.
    fn head(&mut self) -> io::Result<Option<[u8; REQUEST_LEN]>> {
        while self.end - self.start < REQUEST_LEN {
            self.send()?;
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            match self.session.link.recv(&mut self.buf[self.end..])? {
                0 => return Ok(None),
                len => self.end += len,
            }
        }
        let mut head = [0; REQUEST_LEN];
        head.copy_from_slice(&self.buf[self.start..self.start + REQUEST_LEN]);
        self.start += REQUEST_LEN;
        Ok(Some(head))
    }

    /// What follows a write.
    fn payload(&mut self, len: u32) -> io::Result<(Vec<u8>, Share)> {
        let link = Arc::clone(&self.session.link);
        // Whoever waits for the answers to this client's earlier requests must get them.
        self.send()?;
        let share = self.session.common.memory.take(u64::from(len));
        let mut bytes = vec![0; len as usize];
        let there = (self.end - self.start).min(bytes.len());
        bytes[..there].copy_from_slice(&self.buf[self.start..self.start + there]);
        self.start += there;
        if there < bytes.len() {
            link.set_deadline(Some(Instant::now() + PAYLOAD_TIMEOUT));
            recv_exact(&*link, &mut bytes[there..])?;
            link.set_deadline(None);
        }
        Ok((bytes, share))
    }

    fn send(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = self.session.send(&[&self.out]);
        self.out.clear();
        sent
    }

    fn take(&mut self, request: Request) -> io::Result<Next> {
        let written = match request.command {
            command::DISCONNECT => return Ok(Next::End),
            // Where the next request begins would only be known after reading all of it.
            command::WRITE if request.len > MAX_PAYLOAD => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
            }
            command::WRITE => Some(self.payload(request.len)?),
            _ => None,
        };
        let job = match self.session.check(&request) {
            Err(error) => {
                self.session.fail(&request, error, &mut self.out);
                return Ok(Next::More);
            }
            Ok(job) => job,
        };
        if job == Job::Read && self.read_ready(&request) {
            if self.out.len() >= SEND_AT {
                self.send()?;
            }
            return Ok(Next::More);
        }
        // What it waits for may be read by a client that first wants these.
        self.send()?;
        let share = self.session.open.take(1);
        let session = Arc::clone(self.session);
        self.session.common.pool.submit(Box::new(move || {
            let done = session.work(job, &request, written);
            drop(share);
            if let Err(error) = done {
                tracing::debug!(%error, "a reply could not be sent");
            }
        }));
        Ok(Next::More)
    }

    /// Answers a read from memory, if it can be.
    fn read_ready(&mut self, request: &Request) -> bool {
        if request.len > MAX_INLINE {
            return false;
        }
        let before = self.out.len();
        self.session.read_head(request, &mut self.out);
        let at = self.out.len();
        self.out.resize(at + request.len as usize, 0);
        let is_ready = self
            .session
            .export
            .read_ready(request.offset, &mut self.out[at..]);
        if !is_ready {
            self.out.truncate(before);
        }
        is_ready
    }
}

/// What is to be done for a request that is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Read,
    Write,
    Flush,
    Zero,
    Trim,
    Load,
    Status,
}

impl Session {
    fn check(&self, request: &Request) -> Result<Job, NbdError> {
        use command_flag::*;
        let (job, flags) = match request.command {
            command::READ => (Job::Read, DF),
            command::WRITE => (Job::Write, FUA),
            command::FLUSH => (Job::Flush, 0),
            command::TRIM => (Job::Trim, FUA),
            command::CACHE => (Job::Load, 0),
            command::WRITE_ZEROES => (Job::Zero, FUA | NO_HOLE),
            command::BLOCK_STATUS if self.has_status => (Job::Status, REQ_ONE),
            _ => return Err(NbdError::Invalid),
        };
        // Some clients set it on everything, and it never hurts.
        if request.flags & !(flags | FUA) != 0 {
            return Err(NbdError::Invalid);
        }
        if matches!(job, Job::Write | Job::Trim | Job::Zero) && !self.export.is_writable() {
            return Err(NbdError::NotPermitted);
        }
        if job == Job::Read && request.len > MAX_PAYLOAD {
            return Err(NbdError::Overflow);
        }
        if job == Job::Flush {
            return Ok(job);
        }
        let end = request.offset.checked_add(u64::from(request.len));
        if end.is_none_or(|end| end > self.export.size()) {
            return Err(match job {
                Job::Write | Job::Zero => NbdError::NoSpace,
                _ => NbdError::Invalid,
            });
        }
        match job {
            Job::Status if request.len == 0 => Err(NbdError::Invalid),
            job => Ok(job),
        }
    }

    /// Does the work and replies. The error is of the connection; others are replies.
    fn work(
        &self,
        job: Job,
        request: &Request,
        written: Option<(Vec<u8>, Share)>,
    ) -> io::Result<()> {
        let (offset, len) = (request.offset, u64::from(request.len));
        let export = &self.export;
        let durable = |done: io::Result<()>| match request.flags & command_flag::FUA {
            0 => done,
            _ => done.and_then(|()| export.flush()),
        };
        let done = match job {
            Job::Read => return self.read(request),
            Job::Status => return self.status(request),
            Job::Write => {
                let bytes = written.as_ref().map_or(&[][..], |(bytes, _)| bytes);
                durable(export.write(offset, bytes))
            }
            Job::Zero | Job::Trim => durable(export.zero(offset, len)),
            Job::Flush => export.flush(),
            Job::Load => export.load(offset, len),
        };
        let mut out = Vec::new();
        match done {
            Ok(()) if self.is_structured => {
                let head = chunk_head(chunk::DONE, chunk::NONE, request.cookie, 0);
                out.extend_from_slice(&head);
            }
            Ok(()) => out.extend_from_slice(&simple_head(0, request.cookie)),
            Err(error) => self.failed(request, &error, &mut out),
        }
        self.send(&[&out])
    }

    fn read(&self, request: &Request) -> io::Result<()> {
        let whole = request.offset..request.offset + u64::from(request.len);
        let may_split = self.is_structured && request.flags & command_flag::DF == 0;
        if may_split && request.len >= SPLIT_FROM {
            return self.read_parts(request, whole);
        }
        let _share = self.common.memory.take(u64::from(request.len));
        let mut out = Vec::new();
        self.read_head(request, &mut out);
        let at = out.len();
        out.resize(at + request.len as usize, 0);
        if let Err(error) = self.export.read_at(request.offset, &mut out[at..]) {
            out.clear();
            self.failed(request, &error, &mut out);
        }
        self.send(&[&out])
    }

    /// The head of a reply that carries all of what was asked for.
    fn read_head(&self, request: &Request, out: &mut Vec<u8>) {
        if self.is_structured {
            let len = request.len + 8;
            let head = chunk_head(chunk::DONE, chunk::OFFSET_DATA, request.cookie, len);
            out.extend_from_slice(&head);
            out.extend_from_slice(&request.offset.to_be_bytes());
        } else {
            out.extend_from_slice(&simple_head(0, request.cookie));
        }
    }

    /// In parts, so that little is in memory, and holes are not sent.
    fn read_parts(&self, request: &Request, whole: Range<u64>) -> io::Result<()> {
        let mut at = whole.start;
        let mut out = Vec::new();
        while at < whole.end {
            let part = extents(&*self.export, at..whole.end, 1);
            let part = part.map(|found| found.into_iter().next());
            let (end, is_hole) = match part {
                Ok(Some(part)) if part.is_hole => (part.range.end, true),
                Ok(Some(part)) => (part.range.end.min(at + PART), false),
                Ok(None) => (whole.end, true),
                Err(error) => return self.cut_short(request, &error),
            };
            let flags = match end == whole.end {
                true => chunk::DONE,
                false => 0,
            };
            out.clear();
            let len = (end - at) as u32;
            if is_hole {
                let head = chunk_head(flags, chunk::OFFSET_HOLE, request.cookie, 12);
                out.extend_from_slice(&head);
                out.extend_from_slice(&at.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
            } else {
                let head = chunk_head(flags, chunk::OFFSET_DATA, request.cookie, len + 8);
                out.extend_from_slice(&head);
                out.extend_from_slice(&at.to_be_bytes());
                let from = out.len();
                out.resize(from + len as usize, 0);
                if let Err(error) = self.export.read_at(at, &mut out[from..]) {
                    return self.cut_short(request, &error);
                }
            }
            self.send(&[&out])?;
            at = end;
        }
        Ok(())
    }

    fn cut_short(&self, request: &Request, error: &io::Error) -> io::Result<()> {
        let mut out = Vec::new();
        self.failed(request, error, &mut out);
        self.send(&[&out])
    }

    fn status(&self, request: &Request) -> io::Result<()> {
        let range = request.offset..request.offset + u64::from(request.len);
        let limit = match request.flags & command_flag::REQ_ONE {
            0 => MAX_EXTENTS,
            _ => 1,
        };
        let mut out = Vec::new();
        match extents(&*self.export, range, limit) {
            Ok(found) => {
                let len = 4 + 8 * found.len() as u32;
                let head = chunk_head(chunk::DONE, chunk::BLOCK_STATUS, request.cookie, len);
                out.extend_from_slice(&head);
                out.extend_from_slice(&ALLOCATION_ID.to_be_bytes());
                for part in found {
                    let len = (part.range.end - part.range.start) as u32;
                    let state = if part.is_hole { STATE_HOLE_ZERO } else { 0 };
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(&state.to_be_bytes());
                }
            }
            Err(error) => self.failed(request, &error, &mut out),
        }
        self.send(&[&out])
    }

    /// The reply to what went wrong here; the whole story is for the log.
    fn failed(&self, request: &Request, error: &io::Error, out: &mut Vec<u8>) {
        let told = NbdError::of(error);
        tracing::warn!(
            offset = request.offset,
            bytes = request.len,
            error = error as &dyn std::error::Error,
            "a request on a served disk failed"
        );
        self.fail(request, told, out);
    }

    fn fail(&self, request: &Request, error: NbdError, out: &mut Vec<u8>) {
        if !self.is_structured {
            out.extend_from_slice(&simple_head(error.number(), request.cookie));
            return;
        }
        let text = error.to_string();
        let len = 6 + text.len() as u32;
        let head = chunk_head(chunk::DONE, chunk::ERROR, request.cookie, len);
        out.extend_from_slice(&head);
        out.extend_from_slice(&error.number().to_be_bytes());
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let _alone = lock(&self.sending);
        self.link.send(parts)
    }
}
