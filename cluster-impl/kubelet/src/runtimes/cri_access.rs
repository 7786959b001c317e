//! Logs, streams and usage over CRI: logs are files of the node, streams are at an address of the
//! runtime's own server.

use async_trait::async_trait;
use k8s_cri::v1 as cri;

use super::cri::{ASK_TIMEOUT, CriRuntime, WORK_TIMEOUT, within};
use super::cri_log::LogFile;
use crate::access::{Access, ContainerLog, Outcome, Streams, Usage};
use crate::runtime::{
    CONTAINER_NAME_LABEL, ContainerStatus, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL,
    PodId, RuntimeError,
};

#[async_trait]
impl Access for CriRuntime {
    async fn open_log(
        &self,
        pod: &PodId,
        container: &ContainerStatus,
        tail: Option<u64>,
    ) -> Result<Box<dyn ContainerLog>, RuntimeError> {
        let path = self.places.log(pod, &container.name, container.attempt);
        Ok(Box::new(LogFile::open(&path, tail).await?))
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        streams: Streams,
    ) -> Result<String, RuntimeError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let (container_id, cmd) = (id.to_owned(), command.to_vec());
        let request = cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
        Ok(within(ASK_TIMEOUT, self.runtime.clone().exec(request)).await?.url)
    }

    async fn exec_and_wait(&self, id: &str, command: &[String]) -> Result<Outcome, RuntimeError> {
        let (container_id, cmd) = (id.to_owned(), command.to_vec());
        let timeout = i64::try_from(WORK_TIMEOUT.as_secs()).unwrap_or(i64::MAX);
        let request = cri::ExecSyncRequest { container_id, cmd, timeout };
        let answer = within(2 * WORK_TIMEOUT, self.runtime.clone().exec_sync(request)).await?;
        let cri::ExecSyncResponse { stdout, stderr, exit_code } = answer;
        Ok(Outcome { stdout, stderr, exit_code })
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<String, RuntimeError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let container_id = id.to_owned();
        let request = cri::AttachRequest { container_id, stdin, tty, stdout, stderr };
        Ok(within(ASK_TIMEOUT, self.runtime.clone().attach(request)).await?.url)
    }

    async fn port_forward(&self, sandbox: &str, ports: &[u16]) -> Result<String, RuntimeError> {
        let port = ports.iter().map(|port| i32::from(*port)).collect();
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port };
        Ok(within(ASK_TIMEOUT, self.runtime.clone().port_forward(request)).await?.url)
    }

    async fn usage(&self) -> Result<Vec<Usage>, RuntimeError> {
        let request = cri::ListContainerStatsRequest { filter: None };
        let answer =
            within(ASK_TIMEOUT, self.runtime.clone().list_container_stats(request)).await?;
        let mut all: Vec<Usage> = answer.stats.into_iter().filter_map(read).collect();
        all.sort_by(|a, b| (&a.pod, &a.container).cmp(&(&b.pod, &b.container)));
        Ok(all)
    }
}

fn read(stats: cri::ContainerStats) -> Option<Usage> {
    let labels = stats.attributes?.labels;
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let number = |value: Option<cri::UInt64Value>| value.map(|value| value.value);
    let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
    let disk = stats.writable_layer.unwrap_or_default();
    Some(Usage {
        pod: PodId {
            namespace: label(POD_NAMESPACE_LABEL),
            name: label(POD_NAME_LABEL),
            uid: label(POD_UID_LABEL),
        },
        container: label(CONTAINER_NAME_LABEL),
        at_ns: cpu.timestamp,
        // The pod's status says it.
        started_ns: None,
        cpu_ns: number(cpu.usage_core_nano_seconds),
        memory_bytes: number(memory.usage_bytes).or(number(memory.working_set_bytes)),
        working_set_bytes: number(memory.working_set_bytes),
        disk_bytes: number(disk.used_bytes),
        inodes: number(disk.inodes_used),
    })
}
