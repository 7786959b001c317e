//! Logs of staged containers: what testapp would have written. Nothing runs in them, so they have no
//! streams, and say so; and they use nothing, which is what they tell of their CPU and memory.

use std::sync::Weak;

use async_trait::async_trait;
use bytes::Bytes;
use env::Timestamp;

use super::staged::StagedRuntime;
use crate::access::{Access, ContainerLog, LogRecord, Outcome, Streams, Usage};
use crate::runtime::{ContainerStatus, PodId, RuntimeError};

struct StagedLog {
    runtime: Weak<StagedRuntime>,
    id: String,
    next: usize,
}

#[async_trait]
impl ContainerLog for StagedLog {
    async fn next(&mut self) -> Result<Option<LogRecord>, RuntimeError> {
        let record = self.runtime.upgrade().and_then(|runtime| runtime.said(&self.id, self.next));
        let Some((at, line)) = record else { return Ok(None) };
        self.next += 1;
        let text = Bytes::from(format!("{line}\n"));
        Ok(Some(LogRecord { at, is_stderr: false, is_partial: false, text }))
    }
}

fn refused<T>(what: &str) -> Result<T, RuntimeError> {
    Err(RuntimeError::Failed(format!(
        "a simulated container has no process and no network of its own, hence no {what}; use --target docker"
    )))
}

#[async_trait]
impl Access for StagedRuntime {
    async fn open_log(
        &self,
        _pod: &PodId,
        container: &ContainerStatus,
        tail: Option<u64>,
    ) -> Result<Box<dyn ContainerLog>, RuntimeError> {
        self.answer("log", 0..1).await?;
        let count = self.said_count(&container.id).ok_or_else(|| {
            RuntimeError::NotFound(format!("container {} not found", container.id))
        })?;
        let tail = tail.map_or(count, |tail| usize::try_from(tail).unwrap_or(count));
        let (runtime, id) = (self.this.clone(), container.id.clone());
        Ok(Box::new(StagedLog { runtime, id, next: count.saturating_sub(tail) }))
    }

    async fn exec(&self, _: &str, _: &[String], _: Streams) -> Result<String, RuntimeError> {
        refused("exec")
    }

    async fn exec_and_wait(&self, _: &str, _: &[String]) -> Result<Outcome, RuntimeError> {
        refused("exec")
    }

    async fn attach(&self, _: &str, _: Streams) -> Result<String, RuntimeError> {
        refused("attach")
    }

    async fn port_forward(&self, _: &str, _: &[u16]) -> Result<String, RuntimeError> {
        refused("port-forward")
    }

    async fn usage(&self) -> Result<Vec<Usage>, RuntimeError> {
        self.answer("usage", 0..1).await?;
        let now = self.env().now();
        let nanos = |at: Timestamp| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX);
        let mut all: Vec<Usage> = self
            .running()
            .into_iter()
            .map(|one| Usage {
                pod: one.pod,
                container: one.container,
                at_ns: nanos(now),
                started_ns: one.started.map(nanos),
                cpu_ns: Some(0),
                memory_bytes: Some(0),
                working_set_bytes: Some(0),
                disk_bytes: Some(0),
                inodes: Some(0),
            })
            .collect();
        all.sort_by(|one, other| (&one.pod, &one.container).cmp(&(&other.pod, &other.container)));
        Ok(all)
    }
}
