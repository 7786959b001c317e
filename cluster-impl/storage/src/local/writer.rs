//! The thread that puts changes on disk: all that waits goes into one commit.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::disk::Disk;
use super::{Job, Message, Queue, Shared, Trouble};
use crate::StoreError;

/// How many changes go into one commit.
const BATCH_MAX: usize = 1000;

/// The writing thread. Dropped, it writes what waits, and ends.
pub(super) struct Writer {
    queue: Queue,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(shared: Arc<Shared>, disk: Disk) -> Self {
        let (queue, messages) = mpsc::channel();
        let work = move || write_all(&shared, disk, &messages);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(work);
        // A system without a thread to spare cannot run the process at all.
        let thread = thread.expect("the system has a thread for the store");
        Self { queue, thread: Some(thread) }
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A thread that has ended takes nothing more.
        let _ = self.queue.send(Message::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

fn write_all(shared: &Shared, mut disk: Disk, messages: &mpsc::Receiver<Message>) {
    let mut is_over = false;
    while !is_over && let Ok(first) = messages.recv() {
        let mut batch = Vec::new();
        for message in std::iter::once(first).chain(messages.try_iter()).take(BATCH_MAX) {
            match message {
                Message::Job(job) => batch.push(job),
                Message::End => is_over = true,
            }
        }
        let generation = shared.lock().generation;
        let (batch, void): (Vec<Job>, Vec<Job>) =
            batch.into_iter().partition(|job| job.generation == generation);
        for job in void {
            let why = "an earlier change could not be written".to_owned();
            // Whoever asked may have gone.
            let _ = job.done.send(Err(StoreError::Unavailable(why)));
        }
        match disk.write(&batch) {
            Ok(()) => {
                let mut state = shared.lock();
                for job in batch {
                    state.publish(job.record.as_ref());
                    let _ = job.done.send(Ok(()));
                }
            }
            Err(error) => disk = recover(shared, disk, batch, &error),
        }
    }
}

/// Takes back what could not be written, and waits until the disk can be used again. On a full disk
/// nothing of the batch was written, so what is safe can be read meanwhile; after any other error only
/// the disk itself can tell what it holds.
fn recover(shared: &Shared, disk: Disk, batch: Vec<Job>, error: &StoreError) -> Disk {
    tracing::error!(%error, "the store could not write");
    let mut state = shared.lock();
    state.trouble = Some(match error {
        StoreError::NoSpace => {
            let held = state.mvcc.as_of(state.safe);
            state.go_back(held, error);
            Trouble::Full
        }
        other => Trouble::Broken(format!("the store could not write: {other}")),
    });
    drop(state);
    for job in batch {
        let _ = job.done.send(Err(error.clone()));
    }
    let (disk, held) = disk.reopen();
    let mut state = shared.lock();
    if held.revision() != state.mvcc.revision() || *error != StoreError::NoSpace {
        state.go_back(held, error);
    }
    state.trouble = None;
    disk
}
