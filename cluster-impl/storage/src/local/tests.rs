//! The conformance suite on the store of one process, and what a restart and a broken disk leave.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use env::Env;
use futures::StreamExt;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageBackend};

use super::*;
use crate::{Op, conformance};

fn put(key: &str, value: &str) -> Txn {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Txn { success: vec![Op::Put(key.into(), value, 0)], ..Txn::default() }
}

async fn everything(store: &LocalStore) -> (i64, Vec<crate::KeyValue>) {
    let found = store.range(RangeRequest::latest(KeyRange::prefix("/"))).await.unwrap();
    (found.revision, found.kvs)
}

#[tokio::test(start_paused = true)]
async fn a_store_in_memory_passes_the_suite() {
    let store: Arc<dyn Store> = LocalStore::in_memory(Env::os());
    assert_eq!(conformance::run_all(&store).await, []);
    assert_eq!(conformance::watches::a_silent_watch_shows_its_progress(store).await, Ok(()));
}

#[tokio::test]
async fn a_store_on_disk_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = LocalStore::open(Env::os(), dir.path()).unwrap();
    assert_eq!(conformance::run_all(&store).await, []);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let store = LocalStore::open(Env::os(), dir.path()).unwrap();
        for number in 0..20 {
            store.txn(put(&format!("/{}", number % 5), &number.to_string())).await.unwrap();
        }
        store
            .txn(Txn { success: vec![Op::Delete(KeyRange::key("/3"))], ..Txn::default() })
            .await
            .unwrap();
        let lease = store.lease_grant(60).await.unwrap();
        let op = Op::Put(b"/leased".to_vec(), Bytes::from_static(b"x"), lease);
        store.txn(Txn { success: vec![op], ..Txn::default() }).await.unwrap();
        everything(&store).await
    };
    let store = LocalStore::open(Env::os(), dir.path()).unwrap();
    assert_eq!(everything(&store).await, before);
    let old = store.watch(KeyRange::prefix("/"), before.0).await.err();
    assert_eq!(old, Some(StoreError::Compacted { asked: before.0, oldest: before.0 + 1 }));
    let mut watch = store.watch(KeyRange::prefix("/"), before.0 + 1).await.unwrap();
    let after = store.txn(put("/new", "1")).await.unwrap();
    assert_eq!(after.revision, before.0 + 1, "no revision is used twice");
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    let lease = before.1.iter().find(|kv| kv.lease != 0).unwrap().lease;
    store.lease_revoke(lease).await.unwrap();
    assert!(!everything(&store).await.1.iter().any(|kv| kv.key == "/leased"));
}

#[tokio::test]
async fn a_directory_belongs_to_one_process_and_holds_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(Env::os(), dir.path()).unwrap();
    let second = LocalStore::open(Env::os(), dir.path()).err().unwrap().to_string();
    assert!(second.ends_with("state.redb is in use by another process"), "{second}");
    drop(store);
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("state.redb"), [7; 10_000]).unwrap();
    let broken = LocalStore::open(Env::os(), other.path()).err().unwrap().to_string();
    assert!(broken.starts_with("failed to read "), "{broken}");
}

#[tokio::test]
async fn many_writers_share_commits_and_each_gets_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(Env::os(), dir.path()).unwrap();
    let writes = (0..500).map(|number| {
        let store = store.clone();
        async move { store.txn(put(&format!("/{number}"), "x")).await.unwrap().revision }
    });
    let mut revisions = futures::future::join_all(writes).await;
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 500);
    assert_eq!(everything(&store).await.1.len(), 500);
}

/// A disk that is full while [`IS_FULL`] says so.
#[derive(Debug)]
struct SmallDisk(FileBackend);

/// Each test has a process of its own, under nextest and in this file: only one test uses it.
static IS_FULL: AtomicBool = AtomicBool::new(false);

impl SmallDisk {
    fn check() -> io::Result<()> {
        match IS_FULL.load(Ordering::SeqCst) {
            true => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device")),
            false => Ok(()),
        }
    }

    fn open(file: &Path) -> Result<Database, DatabaseError> {
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(file)?;
        Database::builder().create_with_backend(Self(FileBackend::new(file)?))
    }
}

impl StorageBackend for SmallDisk {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::check().and_then(|()| self.0.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::check().and_then(|()| self.0.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::check().and_then(|()| self.0.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open_by(dir.path(), SmallDisk::open).unwrap();
    let store = LocalStore::of(Env::os(), disk).unwrap();
    let kept = store.txn(put("/kept", "1")).await.unwrap().revision;
    let mut watch = store.watch(KeyRange::prefix("/"), 0).await.unwrap();
    watch.next().await.unwrap().unwrap();
    IS_FULL.store(true, Ordering::SeqCst);
    let refused = store.txn(put("/lost", "1")).await;
    assert!(matches!(refused, Err(StoreError::NoSpace)), "{refused:?}");
    assert_eq!(watch.next().await.unwrap().unwrap_err(), StoreError::NoSpace);
    let refused = store.txn(put("/lost-too", "1")).await;
    assert!(matches!(refused, Err(StoreError::NoSpace)), "{refused:?}");
    assert_eq!(everything(&store).await.0, kept, "it can still be read");
    IS_FULL.store(false, Ordering::SeqCst);
    let written = loop {
        match store.txn(put("/later", "1")).await {
            Ok(written) => break written.revision,
            Err(StoreError::NoSpace) => Env::os().sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(written, kept + 1, "what was refused took no revision that anybody saw");
    let keys = async |store: &LocalStore| -> Vec<Bytes> {
        everything(store).await.1.into_iter().map(|kv| kv.key).collect()
    };
    assert_eq!(keys(&store).await, ["/kept", "/later"]);
    drop((watch, store));
    let again = LocalStore::open(Env::os(), dir.path()).unwrap();
    assert_eq!(keys(&again).await, ["/kept", "/later"]);
}
