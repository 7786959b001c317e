//! A component as a process: its runtime, its surroundings, its end.

use std::future::Future;

use anyhow::Context;
use env::{Env, Sabotage};

/// What every component takes.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// The name of the node that this process runs on.
    #[arg(long)]
    pub node: String,
    /// A planted defect, for testing the tester. Repeatable.
    #[arg(long = "sabotage", value_name = "NAME", hide = true)]
    pub sabotages: Vec<Sabotage>,
}

impl Common {
    /// The surroundings of this process.
    pub fn env(&self) -> Env {
        for sabotage in &self.sabotages {
            tracing::warn!(%sabotage, "sabotage switched on: {}", sabotage.breaks());
        }
        Env::os().with_sabotages(&self.sabotages)
    }

    /// A name for elections that no other process, and no earlier life of this one, has.
    pub fn identity(&self, env: &Env) -> String {
        format!("{}_{}", self.node, env.uid())
    }
}

/// Runs a component until it ends or is asked to end (SIGTERM, SIGINT).
pub fn run(component: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let outcome = runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .context("failed to listen for SIGTERM")?;
        tokio::select! {
            biased;
            _ = terminate.recv() => Ok(()),
            _ = tokio::signal::ctrl_c() => Ok(()),
            outcome = component => outcome,
        }
    });
    // A worker that hangs in a system call must not keep a process alive that has ended.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

/// Parses durations as Kubernetes' flags write them: `40s`, `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 40s, 1m30s or 500ms");
    let mut total = std::time::Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |length| digits + length);
        let factor_ms = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        let part_ms = number.checked_mul(factor_ms).ok_or_else(bad)?;
        total += std::time::Duration::from_millis(part_ms);
        rest = &rest[unit_end..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::duration;

    #[test]
    fn durations_read_as_kubernetes_writes_them() {
        assert_eq!(duration("40s"), Ok(Duration::from_secs(40)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "40", "s", "4x", "99999999999999999999s", "9999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
