//! The server's end of a session without any comfort: frames written as they were encoded beforehand, read in place.
//!
//! The harness's own connection keeps a transcript and makes JSON of everything; here it must cost next to nothing.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    ops::Range,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    BOUND,
    connection::Stream,
    server::{Request, Server},
};
use tungstenite::handshake::derive_accept_key;

/// Size in bytes of an assignment's JSON.
pub const ASSIGNMENT_SIZE: usize = 600;

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The id of the n-th task.
pub fn task_id(number: usize) -> String {
    format!("0190a5e4-7c1b-7d3e-9f00-{number:012}")
}

/// The n-th task's assignment as JSON of [`ASSIGNMENT_SIZE`] bytes.
pub fn assignment(number: usize) -> String {
    let task = task_id(number);
    let with_prompt = |prompt: &str| {
        format!(
            r#"{{"type":"task_assignment","data":{{"task_id":"{task}","execution_id":"e-{number:08}","task":{{"id":"{task}","title":"Fix the flaky test","task_definition":{{"prompt":"{prompt}"}},"created_at":"2025-06-01T12:00:00Z","updated_at":"2025-06-01T12:00:00Z","owner":{{"Type":"TEAM","Id":42}},"agent_config_snapshot":{{"environment_id":"env-7","model_id":"auto","harness":{{"type":"oz"}}}}}},"docker_image":"ubuntu:24.04","env_vars":{{"WARP_API_BASE":"https://app.warp.dev","CI":"1"}}}}}}"#
        )
    };
    let padding = "x".repeat(ASSIGNMENT_SIZE - with_prompt("").len());
    with_prompt(&padding)
}

/// A text as the server's frame.
pub fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x80 | TEXT, 126];
    frame.extend(u16::try_from(text.len()).expect("a frame of less than 64 KiB").to_be_bytes());
    frame.extend(text.as_bytes());
    frame
}

/// The frames of these tasks' assignments, one each.
pub fn assignment_frames(numbers: Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(|number| text_frame(&assignment(number))).collect()
}

/// Where a worker's frame lies in the bytes it begins.
pub struct Head {
    opcode: u8,
    mask: [u8; 4],
    payload: Range<usize>,
}

impl Head {
    /// `None` while the frame is not complete.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk::<2>()?;
        let opcode = first[0] & 0xf;
        assert!(first[0] & 0xf0 == 0x80 && first[1] & 0x80 != 0, "not a whole, masked frame: {first:02x?}");
        let (length, rest, head) = match first[1] & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), rest, 4)
            }
            127 => panic!("a frame of 64 KiB or more"),
            length => (usize::from(length), rest, 2),
        };
        let (mask, rest) = rest.split_first_chunk::<4>()?;
        (rest.len() >= length).then_some(Self { opcode, mask: *mask, payload: head + 4..head + 4 + length })
    }

    /// Where the next frame begins.
    pub const fn end(&self) -> usize {
        self.payload.end
    }

    pub const fn is_text(&self) -> bool {
        self.opcode == TEXT
    }

    /// The payload, unmasked where it lies.
    pub fn unmask<'b>(&self, bytes: &'b mut [u8]) -> &'b [u8] {
        let payload = &mut bytes[self.payload.clone()];
        for (byte, mask) in payload.iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        payload
    }
}

/// An established session with a worker.
pub struct Peer {
    tcp: TcpStream,
    buffer: Box<[u8]>,
    unread: Range<usize>,
}

impl Peer {
    /// Takes a worker's next dial. The moment is when its request had arrived.
    pub fn accept(server: &Server) -> (Self, Instant) {
        let request = server.request();
        let seen = Instant::now();
        (Self::upgrade(request).expect("the worker stays for the answer"), seen)
    }

    fn upgrade(request: Request) -> io::Result<Self> {
        let accept = derive_accept_key(request.header("sec-websocket-key").unwrap_or_default().as_bytes());
        let Stream::Plain(mut tcp) = request.into_stream() else { panic!("this server speaks no TLS") };
        write!(
            tcp,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )?;
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, buffer: vec![0; 1 << 18].into(), unread: 0..0 })
    }

    /// The socket, for who reads and writes it at once.
    pub fn tcp(&self) -> &TcpStream {
        assert!(self.unread.is_empty(), "frames that were read would be lost");
        &self.tcp
    }

    pub fn write(&mut self, frames: &[u8]) {
        self.tcp.write_all(frames).expect("the worker reads");
    }

    /// The next text. Pings are answered on the way.
    pub fn text(&mut self) -> &[u8] {
        match self.text_or_close() {
            Some(payload) => &self.buffer[payload],
            None => panic!("the worker closed the connection"),
        }
    }

    /// Reads the worker's Ping that follows the end of a task, answers it, and waits until the worker has taken the
    /// answer: it is idle then.
    pub fn settle(&mut self) {
        while self.frame().0 != PING {}
        self.sync();
    }

    /// Waits until the worker has taken everything that was written.
    pub fn sync(&mut self) {
        self.write(&[0x80 | PING, 4, b's', b'y', b'n', b'c']);
        loop {
            let (opcode, payload) = self.frame();
            if opcode == PONG && &self.buffer[payload] == b"sync" {
                return;
            }
        }
    }

    /// Reads, and answers Pings, for this long.
    pub fn idle(&mut self, duration: Duration) {
        let until = Instant::now() + duration;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.tcp.set_read_timeout(Some(left)).unwrap();
            match self.fill() {
                Ok(()) => while self.buffered().is_some() {},
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the connection broke: {error}"),
            }
        }
        self.tcp.set_read_timeout(Some(BOUND)).unwrap();
    }

    /// Reads until the worker closes the connection; calls `at_text` at each text.
    pub fn until_close(&mut self, mut at_text: impl FnMut()) {
        while self.text_or_close().is_some() {
            at_text();
        }
    }

    pub fn hang_up(&self) {
        // A worker that has hung up already is as good.
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    fn text_or_close(&mut self) -> Option<Range<usize>> {
        loop {
            match self.frame() {
                (TEXT, payload) => return Some(payload),
                (CLOSE, _) => return None,
                _ => {}
            }
        }
    }

    /// The next frame; a Ping is answered.
    fn frame(&mut self) -> (u8, Range<usize>) {
        loop {
            if let Some(frame) = self.buffered() {
                return frame;
            }
            self.fill().unwrap_or_else(|error| panic!("no frame came: {error}"));
        }
    }

    /// The next frame, when it is here already.
    fn buffered(&mut self) -> Option<(u8, Range<usize>)> {
        let unread = &mut self.buffer[self.unread.clone()];
        let head = Head::parse(unread)?;
        let payload = head.unmask(unread);
        if head.opcode == PING {
            let pong = [&[0x80 | PONG, payload.len() as u8], payload].concat();
            self.tcp.write_all(&pong).expect("the worker reads");
        }
        let start = self.unread.start;
        self.unread.start += head.end();
        Some((head.opcode, start + head.payload.start..start + head.payload.end))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        match self.tcp.read(&mut self.buffer[self.unread.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.unread.end += length;
                Ok(())
            }
        }
    }
}

/// Whether a worker's text says that a task was claimed.
pub fn is_claim(text: &[u8]) -> bool {
    text.starts_with(br#"{"type":"task_claimed""#)
}

/// Whether a worker's text says that a task ended well.
pub fn is_success(text: &[u8]) -> bool {
    text.starts_with(br#"{"type":"task_completed""#)
}
