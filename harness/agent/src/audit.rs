//! The API server's audit log, followed line by line as the server writes it.
//!
//! The lines are events of `audit.k8s.io/v1`; only answered writes are told. The revision of a write
//! and the fence it was made under are in the annotations [`REVISION`] and [`FENCE`].

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;
use shakedown_core::timeline::What;

/// Annotation with the revision that a write happened at.
const REVISION: &str = "shakedown.dev/revision";
/// Annotation with the leader's fence.
const FENCE: &str = "shakedown.dev/fence";
/// At most so much is read at one look; the rest is read at the next.
const LOOK_BYTES_MAX: u64 = 4 << 20;

/// A place in an audit log.
pub struct AuditLog {
    path: PathBuf,
    node: String,
    inode: u64,
    offset: u64,
    /// The beginning of a line whose end was not written yet.
    rest: Vec<u8>,
}

impl AuditLog {
    /// Follows the log from its end as it is now.
    pub fn from_end(path: PathBuf, node: String) -> Self {
        let (inode, offset) =
            std::fs::metadata(&path).map_or((0, 0), |meta| (meta.ino(), meta.len()));
        Self { path, node, inode, offset, rest: Vec::new() }
    }

    /// The writes that were logged since the last look.
    pub fn look(&mut self) -> Vec<What> {
        let mut lines = std::mem::take(&mut self.rest);
        if self.read_on(&mut lines).is_err() {
            self.rest = lines;
            return Vec::new();
        }
        let end = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        self.rest = lines.split_off(end);
        let parsed = |line: &[u8]| {
            let event: Value = serde_json::from_slice(line).ok()?;
            parse(&self.node, &event)
        };
        lines.split(|byte| *byte == b'\n').filter_map(parsed).collect()
    }

    fn read_on(&mut self, lines: &mut Vec<u8>) -> std::io::Result<()> {
        let mut file = File::open(&self.path)?;
        let meta = file.metadata()?;
        if meta.ino() != self.inode || meta.len() < self.offset {
            // Another file, or it was emptied: from its beginning.
            self.inode = meta.ino();
            self.offset = 0;
            lines.clear();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.take(LOOK_BYTES_MAX).read_to_end(lines)? as u64;
        Ok(())
    }
}

/// A write that was answered, from an audit event. Reads and other stages are nothing.
fn parse(node: &str, event: &Value) -> Option<What> {
    let text = |pointer: &str| {
        event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let verb = text("/verb");
    let writes = ["create", "update", "patch", "delete", "deletecollection"];
    if text("/stage") != "ResponseComplete" || !writes.contains(&verb.as_str()) {
        return None;
    }
    let join = |left: String, by: char, right: String| match (left.is_empty(), right.is_empty()) {
        (_, true) => left,
        (true, false) => right,
        (false, false) => format!("{left}{by}{right}"),
    };
    let annotation = |key: &str| event["annotations"][key].as_str().unwrap_or_default();
    let key = join(text("/objectRef/namespace"), '/', text("/objectRef/name"));
    Some(What::Audit {
        node: node.to_owned(),
        user: text("/user/username"),
        verb,
        kind: join(text("/objectRef/resource"), '.', text("/objectRef/apiGroup")),
        key: join(key, '/', text("/objectRef/subresource")),
        code: event["responseStatus"]["code"].as_u64().and_then(|code| code.try_into().ok())?,
        revision: annotation(REVISION).parse().unwrap_or(0),
        fence: annotation(FENCE).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const WRITE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","stage":"ResponseComplete","verb":"create","user":{"username":"system:kube-scheduler"},"objectRef":{"resource":"pods","namespace":"default","name":"a","subresource":"binding"},"responseStatus":{"code":201},"annotations":{"shakedown.dev/revision":"17","shakedown.dev/fence":"kube-scheduler/cp-1_x/2"}}"#;

    fn keys(seen: &[What]) -> Vec<(&str, i64)> {
        seen.iter()
            .map(|what| match what {
                What::Audit { key, revision, .. } => (key.as_str(), *revision),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_log_is_followed_over_half_lines_and_a_new_file() {
        let path = std::env::temp_dir().join(format!("audit-{}.log", std::process::id()));
        std::fs::write(&path, "old line\n").unwrap();
        let mut log = AuditLog::from_end(path.clone(), "cp-1".to_owned());
        let mut file = File::options().append(true).open(&path).unwrap();
        let (half, rest) = WRITE.split_at(40);
        write!(file, "{half}").unwrap();
        assert_eq!(log.look(), []);
        writeln!(file, "{rest}").unwrap();
        assert_eq!(keys(&log.look()), [("default/a/binding", 17)]);
        assert_eq!(log.look(), []);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log.look(), []);
        std::fs::write(&path, format!("{WRITE}\nnot json\n{WRITE}\n")).unwrap();
        assert_eq!(log.look().len(), 2);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn reads_and_earlier_stages_are_not_told() {
        for (from, to) in [("create", "list"), ("ResponseComplete", "RequestReceived")] {
            let event = serde_json::from_str(&WRITE.replace(from, to)).unwrap();
            assert_eq!(parse("cp-1", &event), None, "{to}");
        }
        let event = serde_json::from_str(WRITE).unwrap();
        let Some(What::Audit { user, kind, code, fence, .. }) = parse("cp-1", &event) else {
            panic!("a write is told")
        };
        assert_eq!((user.as_str(), kind.as_str(), code), ("system:kube-scheduler", "pods", 201));
        assert_eq!(fence, "kube-scheduler/cp-1_x/2");
    }
}
