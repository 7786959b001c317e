//! The latest state on disk: one file, in which every batch of changes is one durable commit.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::Job;
use crate::memory::mvcc::Mvcc;
use crate::{KeyValue, StoreError};

/// The file in the store's directory.
const FILE: &str = "state.redb";
/// What the file must say of its own format.
const FORMAT: i64 = 1;
/// How long to wait before a broken disk is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The latest version of every key.
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
/// Leases and their time to live in seconds.
const LEASES: TableDefinition<'_, i64, i64> = TableDefinition::new("leases");
/// `format` and `revision`.
const FACTS: TableDefinition<'_, &str, i64> = TableDefinition::new("facts");

/// Why a store's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made.
    #[error("failed to make {}: {error}", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process uses it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It was written by another version of this program.
    #[error("{} has format {found}; this program reads format {FORMAT}", .file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What it says.
        found: i64,
    },
    /// It is no store, or a broken one.
    #[error("failed to read {}: {why}", .file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// How the file is opened.
pub(super) type Opener = fn(&Path) -> Result<Database, DatabaseError>;

/// An open file.
pub(super) struct Disk {
    dir: PathBuf,
    opener: Opener,
    database: Option<Database>,
}

impl Disk {
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        Self::open_by(dir, |file| Database::create(file))
    }

    /// Opens a file in a way of one's own: a test's disk may fill up.
    pub(super) fn open_by(dir: &Path, opener: Opener) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir)
            .map_err(|error| OpenError::Directory { dir: dir.to_owned(), error })?;
        let file = dir.join(FILE);
        let database = opener(&file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(file),
            other => OpenError::Broken { file, why: other.to_string() },
        })?;
        Ok(Self { dir: dir.to_owned(), opener, database: Some(database) })
    }

    /// What the file holds.
    pub(super) fn load(&self) -> Result<Mvcc, OpenError> {
        let file = || self.dir.join(FILE);
        let read = self.read().map_err(|why| OpenError::Broken { file: file(), why })?;
        let (format, held) = read;
        match format {
            FORMAT => Ok(held),
            found => Err(OpenError::Format { file: file(), found }),
        }
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::PreviousIo)
    }

    fn read(&self) -> Result<(i64, Mvcc), String> {
        let text = |error: redb::Error| error.to_string();
        let database = self.database().map_err(text)?;
        let transaction = database.begin_read().map_err(|error| error.to_string())?;
        let facts = match transaction.open_table(FACTS) {
            Ok(facts) => facts,
            // A file that was just made.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((FORMAT, Mvcc::new(false))),
            Err(error) => return Err(error.to_string()),
        };
        let fact = |name: &str| match facts.get(name) {
            Ok(Some(value)) => Ok(value.value()),
            Ok(None) => Err(format!("it does not say its {name}")),
            Err(error) => Err(error.to_string()),
        };
        let (format, revision) = (fact("format")?, fact("revision")?);
        if format != FORMAT {
            return Ok((format, Mvcc::new(false)));
        }
        let (mut kvs, mut leases) = (Vec::new(), Vec::new());
        let keys = transaction.open_table(KEYS).map_err(|error| error.to_string())?;
        for entry in keys.iter().map_err(|error| error.to_string())? {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            let kv = decode(key.value(), value.value());
            kvs.push(kv.ok_or_else(|| format!("a broken entry: {:?}", key.value()))?);
        }
        let table = transaction.open_table(LEASES).map_err(|error| error.to_string())?;
        for entry in table.iter().map_err(|error| error.to_string())? {
            let (lease, ttl_s) = entry.map_err(|error| error.to_string())?;
            leases.push((lease.value(), ttl_s.value()));
        }
        Ok((format, Mvcc::restored(revision, kvs, &leases)))
    }

    /// Writes what the jobs change, durably, or nothing of it.
    pub(super) fn write(&self, jobs: &[Job]) -> Result<(), StoreError> {
        if jobs.iter().all(|job| job.record.is_none() && job.lease.is_none()) {
            return Ok(());
        }
        self.commit(jobs).map_err(|error| match &error {
            redb::Error::Io(io) if is_full(io) => StoreError::NoSpace,
            other => StoreError::Unknown(other.to_string()),
        })
    }

    fn commit(&self, jobs: &[Job]) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut keys = transaction.open_table(KEYS)?;
            let mut leases = transaction.open_table(LEASES)?;
            let mut facts = transaction.open_table(FACTS)?;
            let mut revision = None;
            for job in jobs {
                for event in job.record.iter().flat_map(|record| record.events.iter()) {
                    let key: &[u8] = &event.kv.key;
                    match event.is_delete {
                        true => drop(keys.remove(key)?),
                        false => drop(keys.insert(key, encode(&event.kv).as_slice())?),
                    }
                }
                match job.lease {
                    Some((lease, Some(ttl_s))) => drop(leases.insert(lease, ttl_s)?),
                    Some((lease, None)) => drop(leases.remove(lease)?),
                    None => {}
                }
                revision = job.record.as_ref().map(|record| record.revision).or(revision);
            }
            facts.insert("format", FORMAT)?;
            let known = facts.get("revision")?.map(|value| value.value());
            if let Some(revision) = revision.or(known.is_none().then_some(1)) {
                facts.insert("revision", revision)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Opens the file anew after an error, however long that takes; answers what it holds.
    pub(super) fn reopen(mut self) -> (Self, Mvcc) {
        loop {
            // The old handle holds the file's lock.
            self.database = None;
            match Self::open_by(&self.dir, self.opener)
                .and_then(|disk| disk.load().map(|held| (disk, held)))
            {
                Ok(found) => return found,
                Err(error) => tracing::error!(%error, "the store cannot be read yet"),
            }
            std::thread::park_timeout(PAUSE);
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
}

/// Four numbers, then the value.
fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + kv.value.len());
    for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(&kv.value);
    bytes
}

fn decode(key: &[u8], bytes: &[u8]) -> Option<KeyValue> {
    let (numbers, value) = bytes.split_at_checked(32)?;
    let (numbers, _) = numbers.as_chunks::<8>();
    let [create_revision, mod_revision, version, lease] =
        <[[u8; 8]; 4]>::try_from(numbers).ok()?.map(i64::from_le_bytes);
    Some(KeyValue {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        create_revision,
        mod_revision,
        version,
        lease,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written() {
        let kv = KeyValue {
            key: Bytes::from_static(b"/a"),
            value: Bytes::from_static(b"{}"),
            create_revision: 3,
            mod_revision: 7,
            version: 2,
            lease: -1,
        };
        assert_eq!(decode(b"/a", &encode(&kv)), Some(kv));
        assert_eq!(decode(b"/a", &[0; 31]), None);
    }
}
