//! From a kubeconfig to an [`ApiClient`]: every cluster in the file is a server, asked in their order.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use apiclient::ApiClient;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A server that does not take a connection for so long is given up for the next one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client of every server in the kubeconfig.
pub async fn client(path: &Path) -> anyhow::Result<ApiClient> {
    let shown = path.display();
    let kubeconfig = Kubeconfig::read_from(path)
        .with_context(|| format!("failed to read kubeconfig {shown}"))?;
    let mut servers = Vec::new();
    for context in &kubeconfig.contexts {
        let options =
            KubeConfigOptions { context: Some(context.name.clone()), ..Default::default() };
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options)
                .await
                .with_context(|| format!("failed to use context {} of {shown}", context.name))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.default_retry = false;
        let client = kube::Client::try_from(config)
            .with_context(|| format!("failed to make a client of {}", context.name))?;
        servers.push(client);
    }
    anyhow::ensure!(!servers.is_empty(), "kubeconfig {shown} has no context");
    Ok(ApiClient::new(servers))
}
