//! Clients that mean no good: the server refuses, and others are served on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nbd::{ExportMap, Listen, Options, Server};

use crate::{Disk, MIB, Served};

const HELLO: &[u8] = b"NBDMAGICIHAVEOPT";

fn option(number: u32, len: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn request(command: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&7u64.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}

/// Says all this, then nothing; the server must hang up, and what it said last is returned.
fn hung_up_on(served: &Served, says: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    stream.write_all(says).unwrap();
    let mut heard = Vec::new();
    // It may be cut off with bytes of ours unread, which is an error here.
    let _ = stream.read_to_end(&mut heard);
    assert!(heard.starts_with(HELLO));
    heard
}

#[test]
fn who_breaks_the_rules_is_hung_up_on() {
    let served = Served::new(Disk::writable(MIB));
    let go = [&[0, 0, 0, 4][..], b"disk", &[0, 0]].concat();
    let flags = [0, 0, 0, 3];
    let ready = [&flags[..], &option(7, go.len() as u32, &go)].concat();
    let cases: [Vec<u8>; 8] = [
        vec![0xff; 4],
        [&flags[..], b"GARBAGE!", &[0; 8]].concat(),
        [&flags[..], &option(7, u32::MAX, b"")].concat(),
        [&flags[..], &option(1, 5, b"wrong")].concat(),
        [&flags[..], &option(1, 2, &[0xc3, 0x28])].concat(),
        [&ready[..], &[0x55; 28]].concat(),
        [&ready[..], &request(1, 0, u32::MAX)].concat(),
        [&flags[..], &option(99, 0, b"").repeat(65)].concat(),
    ];
    for case in &cases {
        hung_up_on(&served, case);
    }
    assert_eq!(served.client().read(0, 1).unwrap().len(), 1);
}

#[test]
fn an_option_that_cannot_be_understood_is_refused() {
    let served = Served::new(Disk::striped(MIB));
    let bad: [(u32, &[u8]); 6] = [
        (7, b""),
        (6, &[0, 0, 0, 200, b'x', 0, 0]),
        (3, b"x"),
        (8, b"x"),
        (10, &[0, 0, 0, 0, 255, 255, 255, 255]),
        (5, b""),
    ];
    for (number, data) in bad {
        let mut says = vec![0, 0, 0, 3];
        says.extend(option(number, data.len() as u32, data));
        says.extend(option(2, 0, b""));
        let heard = hung_up_on(&served, &says);
        let refused = heard[18..].windows(4).any(|four| four[..2] == [0x80, 0]);
        assert!(refused, "option {number}: {heard:?}");
    }
}

#[test]
fn one_connection_too_many_is_closed_and_a_place_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let options = Options {
        connections: 2,
        ..Options::default()
    };
    let listen = [Listen::Unix(socket.clone())];
    let server = Server::start(&listen, Arc::new(ExportMap::new()), options).unwrap();
    let connect = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let mut heard = [0; 18];
        let is_open = stream.read_exact(&mut heard).is_ok();
        (stream, is_open)
    };
    let (one, two, three) = (connect(), connect(), connect());
    assert_eq!([one.1, two.1, three.1], [true, true, false]);
    drop(one);
    // Its thread notices when it notices.
    while server.connections() == 2 {
        std::thread::yield_now();
    }
    assert!(connect().1);
}

#[test]
fn anything_at_all_is_survived() {
    let mut state = 7u64;
    let mut bytes = Vec::new();
    for round in 0..2000 {
        bytes.clear();
        for _ in 0..round % 200 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            bytes.push((state >> 56) as u8);
        }
        nbd::fuzzing::connection(&bytes);
        nbd::fuzzing::requests(&bytes);
        let mut close = vec![(round % 4) as u8];
        close.extend(request(
            (round % 9) as u16,
            state >> 44,
            (state >> 30) as u32 >> 14,
        ));
        close.extend_from_slice(&bytes);
        nbd::fuzzing::requests(&close);
    }
}
