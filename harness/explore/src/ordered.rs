//! Work on several threads whose results are taken in in order.
//!
//! Invariant: what is seen, and in which order, does not depend on how many threads there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

/// Does `work` for each number below `count`; `seen` gets the results in order of their numbers.
/// `stop` ends it after what is under way.
pub fn ordered<T: Send>(
    count: u64,
    jobs: usize,
    stop: &AtomicBool,
    work: &(dyn Fn(u64) -> T + Sync),
    seen: &mut dyn FnMut(u64, T),
) {
    let next = AtomicU64::new(0);
    let (sender, receiver) = mpsc::channel::<(u64, T)>();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || sender.send((index, work(index))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut early: BTreeMap<u64, T> = BTreeMap::new();
        let mut due = 0;
        for (index, result) in receiver {
            early.insert(index, result);
            while let Some(result) = early.remove(&due) {
                seen(due, result);
                due += 1;
            }
        }
    });
}
