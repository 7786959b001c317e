//! The audit log: its flags, and a file that is moved aside when it grows too long.
//!
//! Without a policy, a line is written for every write, as the harness reads them; with one, what it wants.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use apiserver::{AuditLine, AuditPolicy, AuditTrail};
use env::Env;

use crate::apiserver::text;

const MEGABYTE: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The flags, with upstream's names.
#[derive(Debug, clap::Args)]
pub struct Audit {
    /// Where a line goes for every write, or for what --audit-policy-file wants; nowhere if absent.
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// What is written down of which requests: a Policy (audit.k8s.io/v1).
    #[arg(long, requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// The log is moved aside when it has so many megabytes; 0 for never.
    #[arg(long, default_value_t = 0)]
    audit_log_maxsize: u64,
    /// So many old logs are kept; 0 for all.
    #[arg(long, default_value_t = 0)]
    audit_log_maxbackup: usize,
    /// Old logs are kept for so many days; 0 for ever.
    #[arg(long, default_value_t = 0)]
    audit_log_maxage: u32,
}

impl Audit {
    /// Sets what the flags say.
    pub fn apply(&self, env: &Env, config: &mut apiserver::Config) -> anyhow::Result<()> {
        let Some(path) = &self.audit_log_path else { return Ok(()) };
        let log = Log {
            env: env.clone(),
            path: path.clone(),
            bytes_max: self.audit_log_maxsize.saturating_mul(MEGABYTE),
            backups_max: self.audit_log_maxbackup,
            age_max: DAY * self.audit_log_maxage,
            open: Mutex::new(None),
        };
        let failed = || format!("failed to open {}", path.display());
        *log.lock() = Some(open(path).with_context(failed)?);
        match &self.audit_policy_file {
            None => config.audit = Some(Arc::new(move |line| drop(log.write(&event(&line))))),
            Some(path) => {
                let policy = AuditPolicy::parse(&text(path)?);
                let policy = policy.with_context(|| format!("failed to use {}", path.display()))?;
                let write = Arc::new(move |event: &serde_json::Value| log.write(event).is_ok());
                config.audit_trail = Some(AuditTrail { policy: Arc::new(policy), write });
            }
        }
        Ok(())
    }
}

/// A file of lines.
struct Log {
    env: Env,
    path: PathBuf,
    bytes_max: u64,
    backups_max: usize,
    age_max: Duration,
    /// The file and its length; opened anew after a failure.
    open: Mutex<Option<(File, u64)>>,
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(File, u64)>> {
        self.open.lock().expect("no code panics while it holds the audit log")
    }

    /// Writes one line.
    fn write(&self, event: &serde_json::Value) -> io::Result<()> {
        let line = format!("{event}\n");
        let mut held = self.lock();
        let outcome = self.append(&mut held, line.as_bytes());
        if let Err(error) = &outcome {
            tracing::error!(%error, "failed to write the audit log");
            *held = None;
        }
        outcome
    }

    fn append(&self, held: &mut Option<(File, u64)>, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        let is_full =
            |bytes: u64| self.bytes_max > 0 && bytes > 0 && bytes + length > self.bytes_max;
        if held.as_ref().is_some_and(|(_, bytes)| is_full(*bytes)) {
            *held = None;
            std::fs::rename(&self.path, self.backup())?;
            self.forget_old();
        }
        if held.is_none() {
            *held = Some(open(&self.path)?);
        }
        if let Some((file, bytes)) = held {
            file.write_all(line)?;
            *bytes += length;
        }
        Ok(())
    }

    fn parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
        };
        (text(self.path.file_stem()), text(self.path.extension()))
    }

    /// Where the log goes: its name with the time, such as `audit-2026-01-01T00-00-00.000.log`.
    fn backup(&self) -> PathBuf {
        let time = self.env.now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let (stem, extension) = self.parts();
        self.path.with_file_name(format!("{stem}-{time}.{extension}"))
    }

    /// Deletes old logs that are too many or too old. The names tell their order.
    fn forget_old(&self) {
        let (stem, extension) = self.parts();
        let (start, end) = (format!("{stem}-"), format!(".{extension}"));
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten();
        let mut old: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .filter(|(name, _)| name.starts_with(&start) && name.ends_with(&end))
            .collect();
        old.sort();
        old.reverse();
        let limit = self.env.now() - self.age_max;
        let limit = limit.strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        for (index, (name, path)) in old.iter().enumerate() {
            let is_too_many = self.backups_max > 0 && index >= self.backups_max;
            let time = name.strip_prefix(&start).and_then(|name| name.strip_suffix(&end));
            let is_too_old =
                !self.age_max.is_zero() && time.is_some_and(|time| time < limit.as_str());
            if is_too_many || is_too_old {
                std::fs::remove_file(path).ok();
            }
        }
    }
}

/// A write in the shape of an audit.k8s.io/v1 Event with the level Metadata.
fn event(line: &AuditLine) -> serde_json::Value {
    let (resource, group) = line.kind.split_once('.').unwrap_or((&line.kind, ""));
    let mut event = serde_json::json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
        "stage": "ResponseComplete", "verb": line.verb, "user": {"username": line.user},
        "stageTimestamp": line.at.to_string(),
        "objectRef": {
            "resource": resource, "apiGroup": group, "namespace": line.key.namespace,
            "name": line.key.name, "subresource": line.subresource,
        },
        "responseStatus": {"code": line.code},
        "annotations": {
            "shakedown.dev/revision": line.revision.to_string(),
            "shakedown.dev/fence": line.fence.clone().unwrap_or_default(),
        },
    });
    for (key, value) in &line.annotations {
        event["annotations"][key] = value.as_str().into();
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_moved_aside_and_a_full_disk_is_told() {
        let dir = std::env::temp_dir().join(format!("audit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("audit.log");
        let log = Log {
            env: Env::os(),
            path: path.clone(),
            bytes_max: 40,
            backups_max: 2,
            age_max: Duration::ZERO,
            open: Mutex::new(None),
        };
        for number in 0..8 {
            let line = serde_json::json!({"number": number, "padding": "0123456789"});
            log.write(&line).unwrap();
            // Each backup has its own millisecond.
            let before = log.backup();
            while log.backup() == before {}
        }
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"number\":7"));
        let names = std::fs::read_dir(&dir).unwrap().count();
        assert_eq!(names, 3, "the log and two before it");
        std::fs::remove_dir_all(&dir).unwrap();
        let open = Mutex::new(None);
        let full = Log { path: PathBuf::from("/dev/full"), bytes_max: 0, open, ..log };
        assert!(full.write(&serde_json::json!({})).is_err());
    }
}
