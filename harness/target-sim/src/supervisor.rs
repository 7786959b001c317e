//! The supervisor of one component: it starts it, and starts it again when it is gone.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use shakedown_core::lever::Component;

use crate::node::Node;
use crate::world::World;

/// How long a component stays down at least.
const RESTART_MS: u64 = 1000;
/// What is added to it at most.
const RESTART_JITTER_MS: u64 = 200;
/// At the start of the world, and of a node, components come up within this long.
const START_JITTER_MS: u64 = 100;

/// Keeps a component running, for ever. It stands still with its node, and does nothing while the
/// component is held down or the node has no power.
pub(crate) async fn supervise(world: Arc<World>, node: Arc<Node>, component: Component) {
    let label = format!("supervisor/{}/{component}", node.name());
    let mut jitter = world.env.entropy(&label);
    let mut wait_ms = jitter.random_range(0..START_JITTER_MS);
    loop {
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        node.startable(component).await;
        let ended = world.start(&node, component);
        ended.notified().await;
        world.end(&node, component);
        wait_ms = RESTART_MS + jitter.random_range(0..RESTART_JITTER_MS);
    }
}
