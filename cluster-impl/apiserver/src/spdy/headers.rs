//! Header blocks: names and values, packed by zlib with the dictionary that SPDY/3 fixes.
//!
//! One zlib stream goes through all blocks of a direction, so blocks must be unpacked in their order,
//! also those of frames that are of no interest.

use bytes::{Buf, BufMut, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// The longest header block, unpacked. Kubernetes' streams need a few hundred bytes.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Names and values, in order.
pub(crate) type Headers = Vec<(String, String)>;

/// The words that the dictionary begins with, each after its length.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// What the dictionary ends with.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416\
    417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
    Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.put_u32(u32::try_from(word.len()).expect("the words are short"));
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// Packs header blocks.
pub(crate) struct Packer(Compress);

impl Packer {
    pub(crate) fn new() -> Self {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary()).expect("nothing was packed before");
        Self(zlib)
    }

    /// Packs one block.
    pub(crate) fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).expect("headers of ours are short");
        let mut plain = BytesMut::new();
        plain.put_u32(length(headers.len()));
        for (name, value) in headers {
            plain.put_u32(length(name.len()));
            plain.put_slice(name.as_bytes());
            plain.put_u32(length(value.len()));
            plain.put_slice(value.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let before = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - before).unwrap_or(plain.len());
            if packed.capacity() - packed.len() < 64 {
                packed.reserve(plain.len() + 64);
            }
            self.0
                .compress_vec(&plain[done..], &mut packed, FlushCompress::Sync)
                .expect("zlib packs whatever it is given");
            let done = usize::try_from(self.0.total_in() - before).unwrap_or(plain.len());
            // With room left over, all of it is out.
            if done == plain.len() && packed.len() < packed.capacity() {
                return packed;
            }
        }
    }
}

/// Unpacks header blocks.
pub(crate) struct Unpacker(Decompress);

impl Unpacker {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Unpacks one block.
    pub(crate) fn unpack(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let wrong = |_| SpdyError::Protocol("a header block is not packed by zlib");
        let mut plain = Vec::with_capacity(1024);
        let begin = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - begin).unwrap_or(packed.len());
            let (in_before, out_before) = (self.0.total_in(), plain.len());
            let rest = &packed[done..];
            match self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => {
                    return Err(SpdyError::Protocol("a header block ends its zlib stream"));
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(wrong)?;
                    continue;
                }
                Err(error) => return Err(wrong(error)),
            }
            if plain.len() > BLOCK_BYTES_MAX {
                return Err(SpdyError::Protocol("a header block is too long"));
            }
            let moved = self.0.total_in() != in_before || plain.len() != out_before;
            let done = usize::try_from(self.0.total_in() - begin).unwrap_or(packed.len());
            if plain.len() == plain.capacity() {
                plain.reserve(4096);
            } else if done == packed.len() || !moved {
                break;
            }
        }
        parse(&plain)
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    const CUT: SpdyError = SpdyError::Protocol("a header block is cut short");
    fn number(from: &mut &[u8]) -> Result<usize, SpdyError> {
        let number = from.try_get_u32().map_err(|_| CUT)?;
        usize::try_from(number).map_err(|_| CUT)
    }
    fn text(from: &mut &[u8]) -> Result<String, SpdyError> {
        let length = number(from)?;
        let (text, rest) = from.split_at_checked(length).ok_or(CUT)?;
        *from = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
    let count = number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?;
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(SpdyError::Protocol("a header's name is empty or not in lower case"));
        }
        headers.push((name, text(&mut plain)?));
    }
    Ok(headers)
}

/// The first value of a name.
#[cfg(test)]
pub(crate) fn header<'h>(headers: &'h Headers, name: &str) -> &'h str {
    let found = headers.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_spdy_fixes() {
        let bytes = dictionary();
        let (mut low, mut high) = (1_u32, 0_u32);
        for byte in &bytes {
            low = (low + u32::from(*byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        // The checksum by which every zlib stream of SPDY/3 names its dictionary.
        assert_eq!((bytes.len(), (high << 16) | low), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_are_unpacked_in_their_order() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for length in [0, 1, 100, 5000, 60_000] {
            let value: String = (0..length).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
            let headers = vec![("streamtype".to_owned(), "stdin".to_owned()), ("x".into(), value)];
            let packed = packer.pack(&headers);
            assert_eq!(unpacker.unpack(&packed), Ok(headers), "{length}");
        }
    }

    #[test]
    fn what_a_peer_may_not_send_is_refused() {
        let long = vec![("x".to_owned(), "y".repeat(1 << 20))];
        let packed = Packer::new().pack(&long);
        assert!(packed.len() < 4096, "small on the wire, large after it");
        assert!(Unpacker::new().unpack(&packed).is_err());
        let upper = vec![("X".to_owned(), String::new())];
        assert!(Unpacker::new().unpack(&Packer::new().pack(&upper)).is_err());
        assert!(Unpacker::new().unpack(b"no zlib at all").is_err());
        assert!(parse(&[0, 0, 0, 9]).is_err());
        assert!(parse(&[0, 0, 0, 1, 255, 255, 255, 255]).is_err());
    }
}
