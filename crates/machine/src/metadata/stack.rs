//! Our end of the cable as a TCP stack: each connection of the machine becomes a stream of this process. Everything that
//! waits has a bound, as what is at the other end is a stranger.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf, duplex};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::wire::Wire;
use super::{ADDRESS, PORT};

const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0x00, 0xa9, 0xfe, 0xfe]);
const PREFIX_BITS: u8 = 24;
/// Connections at a time; a machine that wants more waits for itself.
const CONNECTIONS_MAX: usize = 8;
const BUFFER_BYTES: usize = 16 * 1024;
/// A machine that does not answer for so long has lost its connection.
const SILENCE: Duration = Duration::from_secs(60);
/// Rounds in which something moved, before others on this thread get their turn.
const ROUNDS_MAX: usize = 32;

/// A socket, and what goes on in its connection.
struct Place {
    handle: SocketHandle,
    connection: Option<Connection>,
}

struct Connection {
    stream: DuplexStream,
    /// The machine has said everything, and that was passed on.
    machine_done: bool,
    /// The other side has said everything.
    we_done: bool,
}

pub(super) struct Stack {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    places: Vec<Place>,
    connections: mpsc::Sender<DuplexStream>,
    timer: Pin<Box<Sleep>>,
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_timeout(Some(SILENCE));
    // A fresh socket on a port that is not zero always listens.
    let _ = socket.listen(PORT);
    socket
}

impl Stack {
    pub(super) fn new(stream: UnixStream, connections: mpsc::Sender<DuplexStream>) -> Stack {
        let mut wire = Wire::new(stream);
        let mut config = Config::new(MAC.into());
        config.random_seed = rand::random();
        let mut interface = Interface::new(config, &mut wire, Instant::now());
        let [a, b, c, d] = ADDRESS;
        interface.update_ip_addrs(|addresses| {
            // There is room for the first one.
            let _ = addresses.push(IpCidr::new(IpAddress::v4(a, b, c, d), PREFIX_BITS));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let places = (0..CONNECTIONS_MAX).map(|_| Place {
            handle: sockets.add(socket()),
            connection: None,
        });
        Stack {
            places: places.collect(),
            wire,
            interface,
            sockets,
            connections,
            timer: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
        }
    }

    /// Moves whatever can be moved now. Whether anything did.
    fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = self.wire.take_in(cx)?;
        let now = Instant::now();
        let polled = self.interface.poll(now, &mut self.wire, &mut self.sockets);
        moved |= polled == PollResult::SocketStateChanged;
        for place in &mut self.places {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(place.handle);
            moved |= place.turn(cx, socket, &self.connections);
        }
        // Sent now, not at the next event: what was said above may be all there is.
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        moved |= self.wire.send_off(cx)?;
        Ok(moved)
    }
}

impl Future for Stack {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stack = &mut *self;
        for _ in 0..ROUNDS_MAX {
            match stack.turn(cx) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            let Some(wait) = stack.interface.poll_delay(Instant::now(), &stack.sockets) else {
                return Poll::Pending;
            };
            let at = tokio::time::Instant::now() + wait.into();
            stack.timer.as_mut().reset(at);
            if stack.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Place {
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut tcp::Socket<'static>,
        connections: &mpsc::Sender<DuplexStream>,
    ) -> bool {
        match socket.state() {
            State::Listen | State::SynReceived => return false,
            State::Closed | State::TimeWait => {
                self.connection = None;
                *socket = self::socket();
                return true;
            }
            _ => {}
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let (ours, theirs) = duplex(BUFFER_BYTES);
                if connections.try_send(theirs).is_err() {
                    socket.abort();
                    return true;
                }
                self.connection.insert(Connection {
                    stream: ours,
                    machine_done: false,
                    we_done: false,
                })
            }
        };
        let heard = connection.hear(cx, socket);
        connection.speak(cx, socket) || heard
    }
}

impl Connection {
    /// From the machine.
    fn hear(&mut self, cx: &mut Context<'_>, socket: &mut tcp::Socket<'static>) -> bool {
        let mut moved = false;
        while socket.can_recv() {
            let stream = Pin::new(&mut self.stream);
            let passed = socket.recv(|bytes| match stream.poll_write(cx, bytes) {
                Poll::Ready(Ok(count)) => (count, count),
                // Nobody listens any more.
                Poll::Ready(Err(_)) => (bytes.len(), bytes.len()),
                Poll::Pending => (0, 0),
            });
            match passed {
                Ok(0) | Err(_) => break,
                Ok(_) => moved = true,
            }
        }
        if !socket.may_recv() && !self.machine_done {
            self.machine_done = Pin::new(&mut self.stream).poll_shutdown(cx).is_ready();
            moved |= self.machine_done;
        }
        moved
    }

    /// To the machine.
    fn speak(&mut self, cx: &mut Context<'_>, socket: &mut tcp::Socket<'static>) -> bool {
        let mut moved = false;
        while socket.can_send() && !self.we_done {
            let stream = Pin::new(&mut self.stream);
            let mut ended = false;
            let passed = socket.send(|room| {
                let mut buffer = ReadBuf::new(room);
                ended = match stream.poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) => buffer.filled().is_empty(),
                    Poll::Ready(Err(_)) => true,
                    Poll::Pending => false,
                };
                let count = buffer.filled().len();
                (count, count)
            });
            if ended {
                socket.close();
                self.we_done = true;
                return true;
            }
            match passed {
                Ok(0) | Err(_) => break,
                Ok(_) => moved = true,
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A machine with the other end of the cable, which says one thing and hears the answer.
    struct Machine {
        wire: Wire,
        interface: Interface,
        sockets: SocketSet<'static>,
        handle: SocketHandle,
        to_say: Vec<u8>,
        heard: Vec<u8>,
    }

    impl Machine {
        fn new(stream: UnixStream, target: [u8; 4], to_say: &[u8], port: u16) -> Machine {
            let mut wire = Wire::new(stream);
            let mac = EthernetAddress([0x52, 0x54, 0, 0xa9, 0xfe, 2]);
            let config = Config::new(mac.into());
            let mut interface = Interface::new(config, &mut wire, Instant::now());
            interface.update_ip_addrs(|all| {
                all.push(IpCidr::new(IpAddress::v4(169, 254, 169, 2), 24))
                    .unwrap();
            });
            let mut sockets = SocketSet::new(Vec::new());
            let mut socket = socket();
            socket.abort();
            let [a, b, c, d] = target;
            let remote = (IpAddress::v4(a, b, c, d), port);
            socket.connect(interface.context(), remote, 40_000).unwrap();
            let handle = sockets.add(socket);
            Machine {
                wire,
                interface,
                sockets,
                handle,
                to_say: to_say.to_vec(),
                heard: Vec::new(),
            }
        }

        /// Until its connection has ended; what it has heard.
        async fn talk(&mut self) -> Vec<u8> {
            loop {
                let state = poll_fn(|cx| {
                    let mut moved = self.wire.take_in(cx).unwrap();
                    self.interface
                        .poll(Instant::now(), &mut self.wire, &mut self.sockets);
                    moved |= self.wire.send_off(cx).unwrap();
                    let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
                    if socket.can_send() && !self.to_say.is_empty() {
                        let count = socket.send_slice(&self.to_say).unwrap();
                        self.to_say.drain(..count);
                        moved = true;
                    }
                    while socket.can_recv() {
                        let heard = &mut self.heard;
                        socket
                            .recv(|bytes| (bytes.len(), heard.extend_from_slice(bytes)))
                            .unwrap();
                        moved = true;
                    }
                    if !socket.may_recv() && socket.state() == State::CloseWait {
                        socket.close();
                        moved = true;
                    }
                    let state = socket.state();
                    match moved || !socket.is_active() {
                        true => Poll::Ready(state),
                        false => Poll::Pending,
                    }
                });
                // A stack's own timers are short; no event comes for them here.
                let tick = std::time::Duration::from_millis(20);
                let state = tokio::time::timeout(tick, state).await;
                if let Ok(State::Closed | State::TimeWait) = state {
                    return std::mem::take(&mut self.heard);
                }
            }
        }
    }

    /// Answers each connection with what it heard, and how much.
    fn echo() -> mpsc::Sender<DuplexStream> {
        let (sender, mut connections) = mpsc::channel::<DuplexStream>(CONNECTIONS_MAX);
        tokio::spawn(async move {
            while let Some(mut stream) = connections.recv().await {
                let mut bytes = vec![0; 60_000];
                let mut count = 0;
                while bytes[..count].last() != Some(&b'\n') {
                    count += stream.read(&mut bytes[count..]).await.unwrap();
                }
                stream.write_all(&bytes[..count]).await.unwrap();
            }
        });
        sender
    }

    async fn check(target: [u8; 4], port: u16, said: &[u8], expected: &[u8]) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stack = tokio::spawn(Stack::new(ours, echo()));
        let mut machine = Machine::new(theirs, target, said, port);
        assert_eq!(machine.talk().await, expected);
        drop(machine);
        assert!(
            stack.await.unwrap().is_ok(),
            "the end of the machine is no fault"
        );
    }

    #[tokio::test]
    async fn a_machine_talks_to_one_port_of_one_address() {
        check(ADDRESS, PORT, b"hello\n", b"hello\n").await;
        let mut long = vec![b'x'; 50_000];
        long.push(b'\n');
        check(ADDRESS, PORT, &long, &long).await;
        check(ADDRESS, 22, b"hello\n", b"").await;
    }

    #[tokio::test]
    async fn connections_follow_each_other_without_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stack = tokio::spawn(Stack::new(ours, echo()));
        let mut machine = Machine::new(theirs, ADDRESS, b"0\n", PORT);
        for port in 0..3 * CONNECTIONS_MAX as u16 {
            assert_eq!(machine.talk().await, b"0\n");
            machine.to_say = b"0\n".to_vec();
            let mut socket = socket();
            socket.abort();
            let [a, b, c, d] = ADDRESS;
            let remote = (IpAddress::v4(a, b, c, d), PORT);
            socket
                .connect(machine.interface.context(), remote, 41_000 + port)
                .unwrap();
            machine.handle = machine.sockets.add(socket);
        }
        drop(machine);
        assert!(stack.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_is_no_frame_ends_it() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stack = tokio::spawn(Stack::new(ours, echo()));
        theirs
            .write_all(&[0, 0, 0, 4, 1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff])
            .await
            .unwrap();
        assert!(stack.await.unwrap().is_err());
    }
}
