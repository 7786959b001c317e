//! What a runtime lets others see of its containers and do in them: logs, streams, usage.

use async_trait::async_trait;
use bytes::Bytes;
use env::Timestamp;

use crate::runtime::{ContainerStatus, PodId, RuntimeError};

/// One line that a container wrote, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// When.
    pub at: Timestamp,
    /// To its standard error rather than its standard output.
    pub is_stderr: bool,
    /// The line goes on in the next record of the same stream.
    pub is_partial: bool,
    /// What; with the line's end, unless that is still to come.
    pub text: Bytes,
}

/// An open log of one container, read from its beginning or near its end.
#[async_trait]
pub trait ContainerLog: Send + Sync {
    /// The next record; `None` if there is none yet.
    async fn next(&mut self) -> Result<Option<LogRecord>, RuntimeError>;
}

/// Which standard streams are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal, which has one output.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// What a command said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub exit_code: i32,
}

/// What a container uses. Absent: not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Whose container.
    pub pod: PodId,
    /// The container's name.
    pub container: String,
    /// When it was measured, in nanoseconds since 1970.
    pub at_ns: i64,
    /// When its process started, in nanoseconds since 1970.
    pub started_ns: Option<i64>,
    /// Nanoseconds of CPU since its start.
    pub cpu_ns: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory that cannot be had back easily.
    pub working_set_bytes: Option<u64>,
    /// Bytes that it wrote to its own layer.
    pub disk_bytes: Option<u64>,
    /// Inodes of that.
    pub inodes: Option<u64>,
}

/// The part of CRI behind `kubectl logs`, `exec`, `attach`, `port-forward` and `top`.
#[async_trait]
pub trait Access: Send + Sync + 'static {
    /// Opens the log of a container; with `tail`, before its last so many lines.
    async fn open_log(
        &self,
        pod: &PodId,
        container: &ContainerStatus,
        tail: Option<u64>,
    ) -> Result<Box<dyn ContainerLog>, RuntimeError>;
    /// Prepares a command in a container; answers the address at which its streams are.
    async fn exec(
        &self,
        id: &str,
        command: &[String],
        streams: Streams,
    ) -> Result<String, RuntimeError>;
    /// Runs a command in a container to its end.
    async fn exec_and_wait(&self, id: &str, command: &[String]) -> Result<Outcome, RuntimeError>;
    /// Prepares to join a container's own process; answers the address at which its streams are.
    async fn attach(&self, id: &str, streams: Streams) -> Result<String, RuntimeError>;
    /// Prepares to reach ports of a sandbox; answers the address at which the streams are.
    async fn port_forward(&self, sandbox: &str, ports: &[u16]) -> Result<String, RuntimeError>;
    /// What all running containers use, in order of pod and name.
    async fn usage(&self) -> Result<Vec<Usage>, RuntimeError>;
}
