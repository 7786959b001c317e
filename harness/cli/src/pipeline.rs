//! Plan, run, judge, report: what `shakedown run` does, as a function.
//!
//! On `sim` every scenario gets a cluster of its own; on `docker` they share one, and after one whose
//! healing failed the rest get a new one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shakedown_core::plan::Plan;
use shakedown_core::target::{ClusterFact, ClusterSpec, Progress, Target, TargetError};
use shakedown_core::timeline::{Event, What};
use shakedown_core::verdict::{RunVerdict, ScenarioVerdict};
use shakedown_runner::{Limits, Recorder, UndoLog, read_undo_log, run_scenario};
use shakedown_target_docker as docker;
use shakedown_target_sim::SimTarget;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::plans::Planned;

/// Where scenarios run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TargetName {
    /// The orchestrator in one process under virtual time.
    Sim,
    /// The orchestrator in containers.
    Docker,
}

impl TargetName {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            TargetName::Sim => "sim",
            TargetName::Docker => "docker",
        }
    }
}

/// A run.
pub struct Run<'a> {
    /// What to run.
    pub planned: &'a [Planned],
    /// On what.
    pub target: TargetName,
    /// Decides every choice.
    pub seed: u64,
    /// Where the timeline, the plans, the undo log and the verdicts go. It is made if missing.
    pub out: &'a Path,
    /// A cluster of `shakedown up` to run on, instead of one of its own.
    pub cluster: Option<&'a str>,
    /// Tells people what is going on.
    pub progress: Progress<'a>,
}

/// How long a scenario took.
struct Took {
    wall: Duration,
    virt: Duration,
}

/// Runs, judges, and writes everything into the run's folder.
pub fn run(run: &Run<'_>) -> Result<RunVerdict, Failure> {
    let started = now();
    #[expect(clippy::disallowed_methods, reason = "wall time of the whole run, for people")]
    let began = Instant::now();
    fs::create_dir_all(run.out).map_err(|error| cannot("make the folder", run.out, &error))?;
    write_plans(run)?;
    let (events, took) = match run.target {
        TargetName::Sim => shakedown_target_sim::run(run.seed, on_sim(run)),
        TargetName::Docker => on_real_time(on_docker(run)),
    }?;
    let plans: Vec<&Plan> = run.planned.iter().map(|planned| &planned.plan).collect();
    let mut scenarios = judge(&plans, &events);
    for (scenario, took) in scenarios.iter_mut().zip(&took) {
        scenario.wall_ms = millis(took.wall);
        scenario.virtual_ms = millis(took.virt);
    }
    let wall_ms = millis(began.elapsed());
    let virtual_ms = match run.target {
        TargetName::Sim => took.iter().map(|took| millis(took.virt)).sum(),
        TargetName::Docker => wall_ms,
    };
    let verdict = RunVerdict {
        format: shakedown_judge::VERDICTS_FORMAT,
        target: run.target.word().to_owned(),
        seed: run.seed,
        started,
        wall_ms,
        virtual_ms,
        scenarios,
    };
    write_verdict(run.out, &verdict)?;
    Ok(verdict)
}

/// Judges every plan by its part of the timeline.
pub fn judge(plans: &[&Plan], events: &[Event]) -> Vec<ScenarioVerdict> {
    plans.iter().map(|plan| shakedown_judge::judge(plan, events)).collect()
}

/// Writes `verdicts.json` and `junit.xml`.
pub fn write_verdict(out: &Path, verdict: &RunVerdict) -> Result<(), Failure> {
    shakedown_report::write(out, verdict).map_err(|error| Failure::harness(error.to_string(), ""))
}

/// The folder of a run that holds its plans.
pub const PLANS: &str = "plans";

fn write_plans(run: &Run<'_>) -> Result<(), Failure> {
    let folder = run.out.join(PLANS);
    // Plans of an earlier run in the same folder would be judged by a timeline that is not theirs.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| cannot("empty", &folder, &error))?;
    }
    fs::create_dir_all(&folder).map_err(|error| cannot("make the folder", &folder, &error))?;
    for Planned { plan, .. } in run.planned {
        let text = plan.to_yaml().map_err(|error| Failure::harness(error, ""))?;
        let name = plan.scenario.replace('/', "--");
        write(&folder.join(format!("{name}.yaml")), &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::harness(
        format!("failed to {what} {}: {error}", path.display()),
        "look at the disk's free space and at the folder's rights, or name another with --out",
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn on_real_time<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::harness(format!("failed to start: {error}"), ""))?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = asked_to_end() => Err(Failure::harness(
                "interrupted",
                "what was begun is being taken back; `shakedown heal --check` lists what is left",
            )),
            outcome = work => outcome,
        }
    })
}

/// Ends when somebody at the terminal, or whoever started this process, wants it to end.
pub async fn asked_to_end() {
    let mut ends = match signal(SignalKind::terminate()) {
        Ok(ends) => ends,
        // Without a handler the signal ends the process at once.
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        _ = ends.recv() => {}
    }
}

fn recorder(run: &Run<'_>) -> Result<(Recorder, UndoLog), Failure> {
    let limits = Limits::of(&largest(run.planned));
    let recorder = Recorder::create(run.out, run.target.word(), run.seed, limits)
        .map_err(|error| Failure::harness(error.to_string(), ""))?;
    let undo_log =
        UndoLog::create(run.out).map_err(|error| Failure::harness(error.to_string(), ""))?;
    Ok((recorder, undo_log))
}

async fn on_sim(run: &Run<'_>) -> Result<(Vec<Event>, Vec<Took>), Failure> {
    let (mut recorder, mut undo_log) = recorder(run)?;
    let mut took = Vec::new();
    for Planned { plan, .. } in run.planned {
        (run.progress)(&format!("{}: {}", plan.scenario, plan.title));
        #[expect(clippy::disallowed_methods, reason = "wall time of a scenario, for people")]
        let (wall, virt) = (Instant::now(), tokio::time::Instant::now());
        let mut target = SimTarget::new(run.seed);
        let cluster = target.boot(&plan.cluster, run.progress).await.map_err(unusable)?;
        let mut parts = Parts { recorder: &mut recorder, undo_log: &mut undo_log };
        one(&mut target, &cluster, plan, &mut parts, run.progress).await;
        target.down().await.await.map_err(unusable)?;
        took.push(Took { wall: wall.elapsed(), virt: virt.elapsed() });
    }
    finish(recorder, took)
}

struct Parts<'a> {
    recorder: &'a mut Recorder,
    undo_log: &'a mut UndoLog,
}

/// Runs one scenario; answers whether the cluster can be used for another.
async fn one(
    target: &mut dyn Target,
    cluster: &ClusterFact,
    plan: &Plan,
    parts: &mut Parts<'_>,
    progress: Progress<'_>,
) -> bool {
    let Parts { recorder, undo_log } = parts;
    let registry = shakedown_faults::ALL;
    let outcome = run_scenario(target, cluster, plan, registry, recorder, undo_log, progress).await;
    !outcome.is_quarantined
}

fn finish(mut recorder: Recorder, took: Vec<Took>) -> Result<(Vec<Event>, Vec<Took>), Failure> {
    recorder.flush().map_err(|error| Failure::harness(error.to_string(), ""))?;
    Ok((recorder.into_events(), took))
}

async fn on_docker(run: &Run<'_>) -> Result<(Vec<Event>, Vec<Took>), Failure> {
    let (mut recorder, mut undo_log) = recorder(run)?;
    let mut took = Vec::new();
    let mut cluster: Option<DockerCluster> = None;
    for Planned { plan, .. } in run.planned {
        #[expect(clippy::disallowed_methods, reason = "wall time of a scenario, for people")]
        let began = Instant::now();
        let mut ready = match cluster.take() {
            Some(ready) => ready,
            None => DockerCluster::make(run).await?,
        };
        (run.progress)(&format!("{}: {}", plan.scenario, plan.title));
        let mut parts = Parts { recorder: &mut recorder, undo_log: &mut undo_log };
        let usable = one(&mut ready.target, &ready.fact, plan, &mut parts, run.progress).await;
        took.push(Took { wall: began.elapsed(), virt: began.elapsed() });
        if usable {
            cluster = Some(ready);
        } else {
            (run.progress)("the cluster could not be healed: the rest gets a new one");
            ready.end().await?;
        }
    }
    if let Some(ready) = cluster {
        ready.end().await?;
    }
    finish(recorder, took)
}

/// A cluster of containers, watched over by a reaper unless somebody else owns it.
struct DockerCluster {
    target: docker::DockerTarget,
    fact: ClusterFact,
    reaper: Option<docker::Reaper>,
    is_own: bool,
}

impl DockerCluster {
    async fn make(run: &Run<'_>) -> Result<Self, Failure> {
        let state = docker::default_state_dir();
        if let Some(name) = run.cluster {
            let target = docker::DockerTarget::attach(&state, name).await.map_err(unusable)?;
            let reaper = reaper(run, &state, name, target.run(), false)?;
            let fact = target.fact();
            return Ok(Self { target, fact, reaper: Some(reaper), is_own: false });
        }
        // What earlier runs left behind when they were killed, together with their reapers.
        docker::sweep(&docker::Sweep::Dead).await.map_err(unusable)?;
        let id = format!("{:x}-{:x}", std::process::id(), jiff::Timestamp::now().as_microsecond());
        let cluster = format!("run-{id}");
        let mut target = docker::DockerTarget::new(docker::Options {
            state: state.clone(),
            cluster: cluster.clone(),
            run: id.clone(),
            keep: false,
            binaries: docker::Binaries::find().map_err(unusable)?,
        })
        .await
        .map_err(unusable)?;
        let reaper = reaper(run, &state, &cluster, &id, true)?;
        let fact = target.boot(&largest(run.planned), run.progress).await.map_err(unusable)?;
        Ok(Self { target, fact, reaper: Some(reaper), is_own: true })
    }

    async fn end(mut self) -> Result<(), Failure> {
        if self.is_own {
            self.target.down().await.await.map_err(unusable)?;
        }
        match self.reaper.take() {
            Some(reaper) => reaper.dismiss().map_err(unusable),
            None => Ok(()),
        }
    }
}

fn reaper(
    run: &Run<'_>,
    state: &Path,
    cluster: &str,
    id: &str,
    remove: bool,
) -> Result<docker::Reaper, Failure> {
    let program = this_program()?;
    let out = run.out.canonicalize().map_err(|error| cannot("find", run.out, &error))?;
    let reaping = docker::Reaping {
        state: state.to_owned(),
        cluster: cluster.to_owned(),
        run: id.to_owned(),
        undo_log: out.join("undo.ndjson"),
        remove,
    };
    docker::spawn_reaper(&program, &reaping, &out.join("reaper.log")).map_err(unusable)
}

/// The program `shakedown`: this one, or the one beside the test that this is.
fn this_program() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()
        .map_err(|error| Failure::harness(format!("cannot find this program: {error}"), ""))?;
    let beside = this.ancestors().skip(1).take(2).map(|folder| folder.join("shakedown"));
    beside.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Failure::harness(
            format!("the program `shakedown` is not beside {}", this.display()),
            "build it: cargo build --package shakedown",
        )
    })
}

/// A cluster in which every plan finds room.
fn largest(planned: &[Planned]) -> ClusterSpec {
    let mut specs = planned.iter().map(|planned| planned.plan.cluster.clone());
    let mut spec = specs.next().expect("a run without plans was refused before");
    for other in specs {
        spec.control_planes = spec.control_planes.max(other.control_planes);
        spec.workers = spec.workers.max(other.workers);
        spec.zones = spec.zones.max(other.zones);
    }
    spec
}

/// What a target says of itself as the end of a command.
pub fn unusable(error: TargetError) -> Failure {
    let hint = match &error {
        TargetError::Failed { hint, .. } => hint.clone(),
        _ => String::new(),
    };
    Failure::harness(error.to_string(), hint)
}

/// The undos of a run that were not done.
pub fn pending_undos(log: &Path) -> Result<Vec<shakedown_core::lever::Undo>, Failure> {
    let logged = read_undo_log(log).map_err(|error| Failure::harness(error.to_string(), ""))?;
    Ok(logged.into_iter().map(|logged| logged.undo).collect())
}

/// Reads the plans of a run's folder, in the order in which they ran.
pub fn read_plans(out: &Path, events: &[Event]) -> Result<Vec<Plan>, Failure> {
    let began = events.iter().filter_map(|event| match &event.what {
        What::ScenarioBegan { id } => Some(id),
        _ => None,
    });
    began
        .map(|id| {
            let path: PathBuf = out.join(PLANS).join(format!("{}.yaml", id.replace('/', "--")));
            let text = fs::read_to_string(&path).map_err(|error| cannot("read", &path, &error))?;
            Plan::from_yaml(&text)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display()), ""))
        })
        .collect()
}
