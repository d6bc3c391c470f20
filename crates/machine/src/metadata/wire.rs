//! Frames on QEMU's socket, each after its length in four bytes, and as the device of a TCP stack. Knows no protocol above.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// An Ethernet frame without any offloading, which such a cable does not have.
const FRAME_BYTES_MAX: usize = 1514;
/// What QEMU may send at most; longer ones are no frames.
const CLAIM_BYTES_MAX: usize = 64 * 1024;
const LENGTH_BYTES: usize = 4;
/// Frames that wait for the stack; the socket holds the others.
const FRAMES_MAX: usize = 64;
/// Bytes that wait for the machine; what the stack cannot send it sends later.
const UNSENT_BYTES_MAX: usize = 128 * 1024;
const READ_BYTES: usize = 16 * 1024;

pub(super) struct Wire {
    stream: UnixStream,
    /// The beginning of a frame.
    begun: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    unsent: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Wire {
        Wire {
            stream,
            begun: Vec::new(),
            frames: VecDeque::new(),
            unsent: Vec::new(),
        }
    }

    /// Takes in what there is room for. Whether something came; an error at the end of the cable.
    pub(super) fn take_in(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut came = false;
        while self.frames.len() < FRAMES_MAX {
            let mut room = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(outcome) => outcome?,
            }
            if buffer.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.begun.extend_from_slice(buffer.filled());
            self.cut()?;
            came = true;
        }
        Ok(came)
    }

    fn cut(&mut self) -> io::Result<()> {
        let mut rest = self.begun.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > CLAIM_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some((frame, after)) = after.split_at_checked(length) else {
                break;
            };
            if length <= FRAME_BYTES_MAX {
                self.frames.push_back(frame.to_vec());
            }
            rest = after;
        }
        self.begun = rest.to_vec();
        Ok(())
    }

    /// Sends what waits. Whether something went.
    pub(super) fn send_off(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut went = false;
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.unsent) {
                Poll::Pending => break,
                Poll::Ready(outcome) => drop(self.unsent.drain(..outcome?)),
            }
            went = true;
        }
        Ok(went)
    }
}

pub(super) struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

pub(super) struct Sending<'w>(&'w mut Vec<u8>);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let claim = u32::try_from(length).unwrap_or(0).to_be_bytes();
        self.0.extend_from_slice(&claim);
        let begin = self.0.len();
        self.0.resize(begin + length, 0);
        fill(&mut self.0[begin..])
    }
}

impl Device for Wire {
    type RxToken<'w> = Received;
    type TxToken<'w> = Sending<'w>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        if self.unsent.len() > UNSENT_BYTES_MAX {
            return None;
        }
        let frame = self.frames.pop_front()?;
        Some((Received(frame), Sending(&mut self.unsent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (self.unsent.len() <= UNSENT_BYTES_MAX).then_some(Sending(&mut self.unsent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES_MAX;
        capabilities
    }
}
