//! Log files as a CRI runtime writes them: `<time> <stream> <P|F> <text>`, one record a line.
//!
//! A file that was rotated is read to its end before the new one is opened. A line that is not of this
//! form is skipped, one longer than [`LINE_BYTES_MAX`] is cut.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

use crate::access::{ContainerLog, LogRecord};
use crate::runtime::RuntimeError;

/// The longest line that is taken whole; containerd splits at 16 KiB.
const LINE_BYTES_MAX: usize = 1 << 20;
/// What is read at a time.
const READ_BYTES: usize = 32 * 1024;

/// An open log file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    buffer: BytesMut,
    /// The rest of a line that was too long is thrown away.
    is_cutting: bool,
}

impl LogFile {
    /// Opens a file before its last `tail` lines, or at its beginning.
    pub(super) async fn open(path: &Path, tail: Option<u64>) -> Result<Self, RuntimeError> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => RuntimeError::NotFound(format!(
                "failed to try resolving symlinks in path {:?}: lstat {}: no such file or directory",
                path.display().to_string(),
                path.display()
            )),
            _ => RuntimeError::Failed(format!("cannot open {}: {error}", path.display())),
        };
        let mut file = File::open(path).await.map_err(failed)?;
        if let Some(lines) = tail {
            let start = start_of_tail(&mut file, lines).await.map_err(failed)?;
            file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file, buffer: BytesMut::new(), is_cutting: false })
    }

    /// Goes on with a new file if the present one was rotated away or emptied. False if neither.
    async fn follow_rotation(&mut self) -> std::io::Result<bool> {
        let here = self.file.metadata().await?;
        let Ok(there) = tokio::fs::metadata(&self.path).await else { return Ok(false) };
        if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
            // The runtime has turned to the new file, so the old one can have grown only until now.
            if self.fill().await? {
                return Ok(true);
            }
            self.file = File::open(&self.path).await?;
            self.buffer.clear();
            return Ok(true);
        }
        if here.len() < self.file.stream_position().await? {
            self.file.seek(SeekFrom::Start(0)).await?;
            self.buffer.clear();
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads more; false at the end of the file.
    async fn fill(&mut self) -> std::io::Result<bool> {
        self.buffer.reserve(READ_BYTES);
        Ok(self.file.read_buf(&mut self.buffer).await? > 0)
    }

    fn line(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                if self.buffer.len() > LINE_BYTES_MAX {
                    let line = (!self.is_cutting).then(|| self.buffer.split().freeze());
                    self.buffer.clear();
                    self.is_cutting = true;
                    return line;
                }
                return None;
            };
            let line = self.buffer.split_to(end + 1).freeze();
            if !std::mem::take(&mut self.is_cutting) {
                return Some(line);
            }
        }
    }
}

#[async_trait]
impl ContainerLog for LogFile {
    async fn next(&mut self) -> Result<Option<LogRecord>, RuntimeError> {
        let failed = |path: &Path, error: std::io::Error| {
            RuntimeError::Failed(format!("cannot read {}: {error}", path.display()))
        };
        loop {
            while let Some(line) = self.line() {
                if let Some(record) = parse(line) {
                    return Ok(Some(record));
                }
            }
            let more = match self.fill().await {
                Ok(true) => Ok(true),
                Ok(false) => self.follow_rotation().await,
                Err(error) => Err(error),
            };
            if !more.map_err(|error| failed(&self.path, error))? {
                return Ok(None);
            }
        }
    }
}

/// Where the last `lines` lines begin.
async fn start_of_tail(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut found, mut block) = (0, vec![0; READ_BYTES]);
    let last = end;
    while end > 0 {
        let start = end.saturating_sub(READ_BYTES as u64);
        let length = usize::try_from(end - start).expect("a block is short");
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..length]).await?;
        for at in (0..length).rev().filter(|at| block[*at] == b'\n') {
            let after = start + at as u64 + 1;
            // The end of the last line begins no further one.
            if after == last {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(after);
            }
        }
        end = start;
    }
    Ok(0)
}

/// A line as a record; `None` if it is none.
pub(crate) fn parse(mut line: Bytes) -> Option<LogRecord> {
    let mut word = |until: u8| {
        let end = line.iter().position(|byte| *byte == until)?;
        let word = line.split_to(end);
        line.advance(1);
        String::from_utf8(word.to_vec()).ok()
    };
    let at = word(b' ')?.parse().ok()?;
    let is_stderr = match word(b' ')?.as_str() {
        "stdout" => false,
        "stderr" => true,
        _ => return None,
    };
    let tags = word(b' ')?;
    let is_partial = tags.split(':').next() == Some("P");
    if is_partial && line.last() == Some(&b'\n') {
        line.truncate(line.len() - 1);
    }
    Some(LogRecord { at, is_stderr, is_partial, text: line })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(number: usize) -> String {
        format!("2026-01-01T00:00:00.{number:09}Z stdout F line {number}\n")
    }

    fn write(path: &Path, text: &str) {
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    async fn rest(log: &mut LogFile) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(record) = log.next().await.unwrap() {
            all.push(String::from_utf8(record.text.to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn records_are_read_as_cri_writes_them() {
        let told = |text: &'static str| {
            let record = parse(Bytes::from_static(text.as_bytes()))?;
            let text = String::from_utf8(record.text.to_vec()).unwrap();
            Some((record.at.to_string(), record.is_stderr, record.is_partial, text))
        };
        assert_eq!(
            told("2026-01-01T00:00:00.123456789+02:00 stderr F oh no\n"),
            Some(("2025-12-31T22:00:00.123456789Z".to_owned(), true, false, "oh no\n".to_owned()))
        );
        let (_, _, is_partial, text) = told("2026-01-01T00:00:00Z stdout P a b \n").unwrap();
        assert_eq!((is_partial, text.as_str()), (true, "a b "));
        assert_eq!(told("2026-01-01T00:00:00Z stdout F \n").unwrap().3, "\n");
        for bad in ["", "\n", "x stdout F a\n", "2026-01-01T00:00:00Z nowhere F a\n", "a b\n"] {
            assert_eq!(told(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_tail_is_found_whatever_lies_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&path, &(0..5000).map(line).collect::<String>());
        for (tail, expected) in [(0, 0), (1, 1), (3, 3), (1234, 1234), (5000, 5000), (9999, 5000)] {
            let found = rest(&mut LogFile::open(&path, Some(tail)).await.unwrap()).await;
            assert_eq!(found.len(), expected, "{tail}");
            if expected > 0 {
                assert_eq!(found.last().unwrap(), "line 4999\n");
                assert_eq!(found[0], format!("line {}\n", 5000 - expected));
            }
        }
        assert_eq!(rest(&mut LogFile::open(&path, None).await.unwrap()).await.len(), 5000);
    }

    #[tokio::test]
    async fn rotation_loses_nothing_and_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&path, &line(1));
        let mut log = LogFile::open(&path, None).await.unwrap();
        assert_eq!(rest(&mut log).await, ["line 1\n"]);
        // The runtime still writes to the file that was moved away, until it turns to the new one.
        let moved = dir.path().join("0.log.1");
        std::fs::rename(&path, &moved).unwrap();
        write(&moved, &line(2));
        assert_eq!(rest(&mut log).await, ["line 2\n"]);
        write(&moved, &line(3));
        write(&path, &line(4));
        assert_eq!(rest(&mut log).await, ["line 3\n", "line 4\n"]);
        write(&path, &line(5));
        assert_eq!(rest(&mut log).await, ["line 5\n"]);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        write(&path, &line(6)[..20]);
        assert_eq!(rest(&mut log).await, [""; 0]);
        write(&path, &line(6)[20..]);
        assert_eq!(rest(&mut log).await, ["line 6\n"]);
    }

    #[tokio::test]
    async fn a_line_without_end_does_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        write(&path, &format!("{}{}\n{}", line(1), "x".repeat(5 << 20), line(2)));
        let mut log = LogFile::open(&path, None).await.unwrap();
        assert_eq!(rest(&mut log).await, ["line 1\n", "line 2\n"]);
        assert!(log.buffer.capacity() < 3 << 20, "{}", log.buffer.capacity());
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_told() {
        let found = LogFile::open(Path::new("/nowhere/0.log"), None).await.err();
        assert!(matches!(found, Some(RuntimeError::NotFound(_))));
    }
}
