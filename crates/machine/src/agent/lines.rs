//! Messages among whatever else stands on a serial port. Pure but for reading.

use tokio::io::{AsyncRead, AsyncReadExt};

/// What a line with a message begins with.
pub(crate) const MARK: &[u8] = b"#bullion:";
/// Of one message. The agent sends output in pieces of 8 KiB.
const LINE_BYTES_MAX: usize = 64 << 10;
/// What firmware and boot loaders write to a port is some kilobytes for each start.
const NOISE_BYTES_MAX: u64 = 4 << 20;
const READ_BYTES: usize = 8 << 10;

/// What was read and not yet given out. Nothing of it is lost where a call of [`Lines::next`] is dropped.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Up to where there is no line's end.
    searched: usize,
    /// Inside a line that is too long to be kept, and is noise.
    skips: bool,
    noise: u64,
}

impl Lines {
    /// The next message, without its mark.
    pub(super) async fn next<S: AsyncRead + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
    ) -> Result<Vec<u8>, String> {
        loop {
            while let Some(line) = self.line() {
                match line.strip_prefix(MARK) {
                    Some(message) if !self.skips => return Ok(message.to_vec()),
                    _ => self.noise(line.len())?,
                }
                self.skips = false;
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                if self.buffer.starts_with(MARK) && !self.skips {
                    return Err(format!(
                        "it said a line of more than {LINE_BYTES_MAX} bytes"
                    ));
                }
                self.noise(self.buffer.len())?;
                self.buffer.clear();
                (self.searched, self.skips) = (0, true);
            }
            let mut piece = [0; READ_BYTES];
            match stream.read(&mut piece).await {
                Ok(0) => return Err("the port was closed".to_owned()),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// A whole line of the buffer, without its end.
    fn line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.buffer[self.searched..];
        let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let mut line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
        self.searched = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }

    fn noise(&mut self, bytes: usize) -> Result<(), String> {
        self.noise += bytes as u64;
        match self.noise > NOISE_BYTES_MAX {
            true => Err(format!(
                "there are more than {NOISE_BYTES_MAX} bytes on the port that are no message"
            )),
            false => Ok(()),
        }
    }
}
