//! For other people's controllers: a whole simulated cluster inside of a Rust test.
//!
//! API servers, controllers, scheduler and nodes run in the test's own thread under virtual time, and
//! the controller under test runs with them: as a process of the first worker, the component
//! `operator` of scenario files, on which every fault works that works on a component.
//!
//! Three ways in. [`Simulation`] boots a cluster and lets the test do what it likes; nothing is judged
//! but by the test's own assertions. [`scenario`] runs a scenario file and judges it by its checks and
//! by all invariants. [`explore`] draws storms around the controller and shrinks the first that fails.
//!
//! Limits: the controller must wait by tokio's clock alone, draw no randomness of its own and open no
//! sockets; custom resources are not served; pods run staged containers, not images. A controller
//! that iterates over maps in random order works, but its runs are not the same bytes each time: a
//! finding is then found again with a likelihood, not for sure. kube-rs' `reflector::Store` and
//! `Controller` are of that sort; a loop of one's own over lists and watches is not.

mod storms;

use std::time::Duration;

use shakedown_core::lever::{Lever, Undo};
use shakedown_core::target::{ClusterSpec, Target, TargetError};
use shakedown_explore::{Document, run_one_with};
use shakedown_target_sim::{SimTarget, run_within};

pub use shakedown_core::lever;
pub use shakedown_core::verdict::{ScenarioVerdict, Verdict};
pub use shakedown_explore::{One, RunError};
pub use shakedown_target_sim::{LimitReached, Operator, RunLimits};
pub use storms::{Exploration, Found, Summary, explore, replay};

/// What ended before it came to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A scenario or a condition is not right.
    #[error("{0}")]
    Scenario(String),
    /// A run did not end as runs do: the seed finds it again.
    #[error("the run with seed {seed} came to nothing: {source}")]
    Run {
        /// The seed of the run.
        seed: u64,
        /// Why.
        source: RunError,
    },
}

/// A simulated cluster for a test that does and asserts by itself.
///
/// ```
/// use shakedown::sim::Simulation;
///
/// let nodes = Simulation::new(7).workers(2).run(async |cluster| {
///     let client = cluster.client();
///     let request = http::Request::get("/api/v1/nodes").body(Vec::new()).expect("a path");
///     let nodes: serde_json::Value = client.request(request).await.expect("nodes");
///     nodes["items"].as_array().map_or(0, Vec::len)
/// });
/// assert_eq!(nodes.expect("it ends"), 2);
/// ```
#[derive(Debug, Clone)]
pub struct Simulation {
    seed: u64,
    spec: ClusterSpec,
    limits: RunLimits,
    operator: Option<Operator>,
}

impl Simulation {
    /// One control plane and one worker; every choice follows from the seed.
    pub fn new(seed: u64) -> Self {
        let (spec, limits) = (ClusterSpec::default(), RunLimits::default());
        Self { seed, spec, limits, operator: None }
    }

    /// How many control planes.
    pub fn control_planes(mut self, count: u32) -> Self {
        self.spec.control_planes = count;
        self
    }

    /// How many workers.
    pub fn workers(mut self, count: u32) -> Self {
        self.spec.workers = count;
        self
    }

    /// The bounds of the run, in virtual and in real time.
    pub fn limits(mut self, limits: RunLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The controller under test. It starts with the cluster, before any API server answers.
    pub fn operator<F, Main>(mut self, main: F) -> Self
    where
        F: Fn(kube::Client) -> Main + Send + Sync + 'static,
        Main: Future<Output = ()> + Send + 'static,
    {
        self.operator = Some(Operator::new(main));
        self
    }

    /// Boots the cluster, runs the test on it, and ends both.
    pub fn run<T>(self, test: impl AsyncFnOnce(&mut Cluster) -> T) -> Result<T, SimError> {
        let seed = self.seed;
        let ended = run_within(seed, self.limits, async {
            let mut target = SimTarget::new(seed);
            if let Some(operator) = self.operator {
                target = target.with_operator(operator);
            }
            target.boot(&self.spec, &|_| {}).await?;
            let mut cluster = Cluster { target };
            let output = test(&mut cluster).await;
            cluster.target.down().await.await?;
            Ok::<T, TargetError>(output)
        });
        match ended {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(SimError::Run { seed, source: error.into() }),
            Err(reached) => Err(SimError::Run { seed, source: reached.into() }),
        }
    }
}

/// The simulated cluster, in the hands of a test.
pub struct Cluster {
    target: SimTarget,
}

impl Cluster {
    /// A client of the first API server that no fault stands in the way of, as the administrator.
    pub fn client(&self) -> kube::Client {
        let endpoints = self.target.endpoints();
        endpoints.into_iter().next().expect("a booted cluster has an API server").client
    }

    /// A client of the API server of this node, if there is one.
    pub fn client_of(&self, node: &str) -> Option<kube::Client> {
        let mut endpoints = self.target.endpoints().into_iter();
        endpoints.find(|endpoint| endpoint.node == node).map(|endpoint| endpoint.client)
    }

    /// Does something to the cluster. Nobody proves that it had an effect: assert that.
    pub async fn pull(&mut self, lever: Lever) -> Result<(), TargetError> {
        self.target.pull(&lever).await
    }

    /// Takes something back.
    pub async fn undo(&mut self, undo: Undo) -> Result<(), TargetError> {
        self.target.undo(&undo).await
    }

    /// Asks until something is so, every 100 ms of virtual time; false if it never was.
    pub async fn wait_until(&self, within: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
        let asking = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(within, asking).await.is_ok()
    }
}

/// Runs the one scenario of a text with a controller under test, and judges it.
pub fn scenario(yaml: &str, seed: u64, operator: &Operator) -> Result<One, SimError> {
    let wrong = |why: String| SimError::Scenario(why);
    let documents = shakedown_core::yaml::parse("scenario.yaml", yaml)
        .map_err(|problems| wrong(problems.to_string()))?;
    let [document] = documents.as_slice() else {
        return Err(wrong(format!("{} scenarios stand in one text", documents.len())));
    };
    let document = Document { id: "sim/scenario".to_owned(), value: document.value.clone() };
    let plan = document.plan(seed, &[]).map_err(wrong)?;
    run_one_with(&plan, seed, RunLimits::default(), Some(operator))
        .map_err(|source| SimError::Run { seed, source })
}
