//! Frames: read from bytes as they come in, and written.
//!
//! Invariant: the reader holds at most one control frame ([`CONTROL_BYTES_MAX`]) of what it was given;
//! data goes out in the pieces in which it comes in.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;
use super::headers::{Headers, Packer, Unpacker};

/// The longest control frame, without its head.
pub(crate) const CONTROL_BYTES_MAX: usize = 32 * 1024;
/// The most bytes of data in one frame of ours.
pub(crate) const DATA_BYTES_MAX: usize = 32 * 1024;

const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const FINAL: u8 = 0x01;
const STREAM: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// One frame, or a piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Opens a stream.
    Open { stream: u32, headers: Headers, is_last: bool },
    /// Accepts a stream.
    Reply { stream: u32, headers: Headers, is_last: bool },
    /// Ends a stream in both directions.
    Reset { stream: u32, status: u32 },
    /// Asks for an echo, or is one.
    Ping(u32),
    /// No further streams.
    GoAway { last: u32, status: u32 },
    /// More headers; of no interest, save that they may end the stream.
    Headers { stream: u32, is_last: bool },
    /// SETTINGS, WINDOW_UPDATE and what a later version may add.
    Other,
    /// A piece of a stream.
    Data { stream: u32, bytes: Bytes, is_last: bool },
}

/// What is left of a data frame.
struct Open {
    stream: u32,
    left: usize,
    is_last: bool,
}

/// Reads frames.
pub(crate) struct Reader {
    data: Option<Open>,
    /// Made with the first header block.
    unpacker: Option<Unpacker>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { data: None, unpacker: None }
    }

    /// Takes the next frame out of `buffer`; `None` if that needs more bytes.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        if let Some(open) = self.data.take() {
            return Ok(self.data(buffer, open));
        }
        if buffer.len() < HEAD_BYTES {
            return Ok(None);
        }
        let mut head = &buffer[..HEAD_BYTES];
        let (first, rest) = (head.get_u32(), head.get_u32());
        let flags = u8::try_from(rest >> 24).expect("eight bits are left");
        let length = (rest & 0x00ff_ffff) as usize;
        if first >> 31 == 0 {
            buffer.advance(HEAD_BYTES);
            let open =
                Open { stream: first & STREAM, left: length, is_last: flags & FINAL == FINAL };
            return Ok(self.data(buffer, open));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(SpdyError::Protocol("a control frame is too long"));
        }
        if buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        buffer.advance(HEAD_BYTES);
        let body = buffer.split_to(length).freeze();
        let kind = (first & 0xffff) as u16;
        if (first >> 16) as u16 != CONTROL | VERSION {
            return Err(SpdyError::Protocol("a control frame is of another version"));
        }
        self.control(kind, flags & FINAL == FINAL, body).map(Some)
    }

    /// A piece of a data frame; an empty one counts only if it ends the stream.
    fn data(&mut self, buffer: &mut BytesMut, open: Open) -> Option<Frame> {
        let Open { stream, left, is_last } = open;
        if left > 0 && buffer.is_empty() {
            self.data = Some(open);
            return None;
        }
        let bytes = buffer.split_to(left.min(buffer.len())).freeze();
        let left = left - bytes.len();
        if left > 0 {
            self.data = Some(Open { stream, left, is_last });
        }
        Some(Frame::Data { stream, bytes, is_last: is_last && left == 0 })
    }

    fn control(&mut self, kind: u16, is_last: bool, mut body: Bytes) -> Result<Frame, SpdyError> {
        const CUT: SpdyError = SpdyError::Protocol("a control frame is cut short");
        fn number(body: &mut Bytes) -> Result<u32, SpdyError> {
            body.try_get_u32().map_err(|_| CUT)
        }
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut body)? & STREAM;
                // Associated stream, priority and slot.
                number(&mut body)?;
                body.try_get_u16().map_err(|_| CUT)?;
                Frame::Open { stream, headers: self.unpack(&body)?, is_last }
            }
            SYN_REPLY => {
                let stream = number(&mut body)? & STREAM;
                Frame::Reply { stream, headers: self.unpack(&body)?, is_last }
            }
            HEADERS => {
                let stream = number(&mut body)? & STREAM;
                self.unpack(&body)?;
                Frame::Headers { stream, is_last }
            }
            RST_STREAM => {
                Frame::Reset { stream: number(&mut body)? & STREAM, status: number(&mut body)? }
            }
            PING => Frame::Ping(number(&mut body)?),
            GOAWAY => {
                Frame::GoAway { last: number(&mut body)? & STREAM, status: number(&mut body)? }
            }
            SETTINGS | WINDOW_UPDATE => Frame::Other,
            _ => Frame::Other,
        })
    }

    fn unpack(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        self.unpacker.get_or_insert_with(Unpacker::new).unpack(packed)
    }
}

/// Writes frames.
pub(crate) struct Writer {
    packer: Packer,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { packer: Packer::new() }
    }

    /// Appends a frame. Data must be no longer than [`DATA_BYTES_MAX`].
    pub(crate) fn write(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Open { stream, headers, is_last } => {
                let packed = self.packer.pack(headers);
                control(out, SYN_STREAM, *is_last, 10 + packed.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&packed);
            }
            Frame::Reply { stream, headers, is_last } => {
                let packed = self.packer.pack(headers);
                control(out, SYN_REPLY, *is_last, 4 + packed.len());
                out.put_u32(*stream);
                out.put_slice(&packed);
            }
            Frame::Reset { stream, status } => {
                control(out, RST_STREAM, false, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Ping(id) => {
                control(out, PING, false, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last, status } => {
                control(out, GOAWAY, false, 8);
                out.put_u32(*last);
                out.put_u32(*status);
            }
            Frame::Data { stream, bytes, is_last } => {
                out.put_u32(*stream);
                put_length(out, *is_last, bytes.len());
                out.put_slice(bytes);
            }
            // Nobody here has a reason to write these.
            Frame::Headers { .. } | Frame::Other => {}
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, is_last: bool, length: usize) {
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    put_length(out, is_last, length);
}

fn put_length(out: &mut BytesMut, is_last: bool, length: usize) {
    let length = u32::try_from(length).expect("frames of ours are short");
    debug_assert!(length < 1 << 24, "a frame's length has three bytes");
    out.put_u32(length | if is_last { u32::from(FINAL) << 24 } else { 0 });
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn headers(kind: &str) -> Headers {
        vec![("streamtype".to_owned(), kind.to_owned())]
    }

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Open { stream: 1, headers: headers("error"), is_last: false },
            Frame::Open { stream: 3, headers: headers("stdin"), is_last: true },
            Frame::Reply { stream: 1, headers: Headers::new(), is_last: false },
            Frame::Data { stream: 3, bytes: Bytes::from_static(b"hello"), is_last: false },
            Frame::Ping(7),
            Frame::Data { stream: 3, bytes: Bytes::new(), is_last: true },
            Frame::Reset { stream: 1, status: 5 },
            Frame::GoAway { last: 3, status: 0 },
        ]
    }

    fn written(frames: &[Frame]) -> Vec<u8> {
        let (mut writer, mut out) = (Writer::new(), BytesMut::new());
        frames.iter().for_each(|frame| writer.write(frame, &mut out));
        out.to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        let (mut reader, mut buffer) = (Reader::new(), BytesMut::from(&written(&frames())[..]));
        let mut read = Vec::new();
        while let Some(frame) = reader.next(&mut buffer).unwrap() {
            read.push(frame);
        }
        assert_eq!(read, frames());
    }

    #[test]
    fn frames_may_come_byte_by_byte() {
        let (mut reader, mut buffer, mut said) = (Reader::new(), BytesMut::new(), Vec::new());
        let mut ends = 0;
        for byte in written(&frames()) {
            buffer.put_u8(byte);
            while let Some(frame) = reader.next(&mut buffer).unwrap() {
                if let Frame::Data { bytes, is_last, .. } = frame {
                    said.extend_from_slice(&bytes);
                    ends += usize::from(is_last);
                }
            }
        }
        assert_eq!((said.as_slice(), ends), (&b"hello"[..], 1));
    }

    /// Feeds bytes in random pieces; the reader must never hold more than one control frame.
    fn feed(bytes: &[u8], random: &mut ChaCha8Rng) -> usize {
        let (mut reader, mut buffer) = (Reader::new(), BytesMut::new());
        let (mut rest, mut frames) = (bytes, 0);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(random.random_range(1..=rest.len()));
            rest = later;
            buffer.extend_from_slice(piece);
            loop {
                match reader.next(&mut buffer) {
                    Ok(Some(_)) => frames += 1,
                    Ok(None) => break,
                    Err(_) => return frames,
                }
            }
            assert!(buffer.len() < HEAD_BYTES + CONTROL_BYTES_MAX);
        }
        frames
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_pile_up() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let valid = written(&frames());
        let (mut frames, mut bytes) = (0, Vec::new());
        for case in 0..1_000_000_u32 {
            bytes.clear();
            if case % 2 == 0 {
                bytes.resize(random.random_range(1..96), 0);
                random.fill(&mut bytes[..]);
                // Most would fail at the version otherwise.
                if case % 4 == 0 {
                    bytes[0] = 0x80;
                    bytes.resize(bytes.len().max(4), 0);
                    (bytes[1], bytes[2], bytes[3]) = (3, 0, random.random_range(0..12));
                }
            } else {
                bytes.extend_from_slice(&valid);
                for _ in 0..random.random_range(1..6) {
                    let at = random.random_range(0..bytes.len());
                    match random.random_range(0..3) {
                        0 => bytes[at] = random.random(),
                        1 => bytes.truncate(at.max(1)),
                        _ => bytes.insert(at, random.random()),
                    }
                }
            }
            frames += feed(&bytes, &mut random);
        }
        assert!(frames > 1_000_000, "most cases were cut off early: {frames} frames");
    }
}
