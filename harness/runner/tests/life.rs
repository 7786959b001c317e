//! Whole scenarios on a target in memory: the life of faults, what is waited for, what is left behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::path::{Path, PathBuf};
use std::time::Duration;

use fake::fault::REGISTRY;
use fake::{FakeTarget, Script};
use shakedown_core::plan::Plan;
use shakedown_core::planner::Planner;
use shakedown_core::scenario;
use shakedown_core::target::Parameters;
use shakedown_core::timeline::{Event, FaultPhase, Operation, Outcome, Reads, What};
use shakedown_runner::{
    Ending, Limits, Recorder, RunOutcome, UndoLog, read_undo_log, run_pack, run_scenario,
};

const HEAD: &str = "
apiVersion: shakedown.dev/v1
kind: Scenario
metadata: {name: pause}
spec:
  title: A paused node is noticed
  proves: []
  cluster: {controlPlanes: 2, workers: 2}
";

const NOTICED: &str = "
  given:
  - pod: bare
    on: any worker
    as: bare
  bind: {victim: node of $bare}
  steps:
  - {fault: node-pause, on: $victim, as: pause}
  - {eventually: {node: $victim, status: {conditions: [{type: Ready, status: Unknown}]}}, within: [30s, 45s], after: pause, as: noticed}
  - {never: {cel: 'objects.pods.exists(p, has(p.metadata.deletionTimestamp))'}, within: [0s, 60s], after: noticed}
  - {heal: pause}
  - {settles: {node: $victim, status: {conditions: [{type: Ready, status: \"True\"}]}}, within: [0s, 30s], after: heal}
";

fn plan(steps: &str) -> Plan {
    let scenarios =
        scenario::parse("pause.yaml", &format!("{HEAD}{}", steps.trim_start_matches('\n')))
            .unwrap_or_else(|problems| panic!("{problems}"));
    let files = |_: &str| Err("no files".to_string());
    let planner = Planner {
        registry: REGISTRY,
        behaviours: None,
        invariants: None,
        files: &files,
        parameters: Parameters::default(),
        sabotages: &[],
    };
    planner.plan("test/pause", &scenarios[0], 11).unwrap_or_else(|problems| panic!("{problems}"))
}

struct Ran {
    outcome: RunOutcome,
    events: Vec<Event>,
    journal: Vec<String>,
    namespaces: Vec<String>,
}

fn noticing() -> Script {
    Script { noticed_after: Some(40), ..Script::default() }
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("shakedown-life-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

async fn run_in(dir: &Path, script: Script, plan: &Plan) -> Ran {
    let script = Script { undo_log: Some(dir.join("undo.ndjson")), ..script };
    let mut undo_log = UndoLog::create(dir).unwrap();
    let mut target = FakeTarget::new(script);
    let cluster = FakeTarget::cluster();
    let mut recorder = Recorder::memory("fake", 11, Limits::default());
    let progress = |_: &str| {};
    let outcome = run_scenario(
        &mut target,
        &cluster,
        plan,
        REGISTRY,
        &mut recorder,
        &mut undo_log,
        &progress,
    )
    .await;
    let journal = target.journal.lock().unwrap().clone();
    let namespaces = target.api.names("api/v1/namespaces");
    Ran { outcome, events: recorder.events().to_vec(), journal, namespaces }
}

async fn run(name: &str, script: Script, steps: &str) -> Ran {
    let dir = folder(name);
    let ran = run_in(&dir, script, &plan(steps)).await;
    std::fs::remove_dir_all(&dir).unwrap();
    ran
}

/// The phases of a fault, each once while it repeats.
fn phases(events: &[Event]) -> Vec<FaultPhase> {
    let mut phases: Vec<FaultPhase> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Fault { phase, .. } => Some(*phase),
            _ => None,
        })
        .collect();
    phases.dedup();
    phases
}

/// When a moment came, in milliseconds.
fn moment(events: &[Event], wanted: &str) -> u64 {
    let found =
        events.iter().find(|event| matches!(&event.what, What::Moment { name } if name == wanted));
    found.unwrap_or_else(|| panic!("no moment {wanted}")).at_us / 1000
}

fn troubles(events: &[Event]) -> Vec<&What> {
    events
        .iter()
        .map(|event| &event.what)
        .filter(|what| matches!(what, What::Trouble { .. }))
        .collect()
}

use FaultPhase::*;
const WHOLE_LIFE: &[FaultPhase] =
    &[Planned, UndoLogged, Applied, Proven, Sustained, Removed, HealProven];

#[tokio::test(start_paused = true)]
async fn a_fault_lives_in_order_and_nothing_is_left() {
    let ran = run("order", noticing(), NOTICED).await;
    assert_eq!(ran.outcome.ending, Ending::Completed, "{:?}", troubles(&ran.events));
    assert!(!ran.outcome.is_quarantined);
    assert_eq!(phases(&ran.events), WHOLE_LIFE);
    let node = ran.journal[0].split([' ', ',']).nth(1).unwrap().to_string();
    assert_eq!(ran.journal, [format!("pull {node}, undo on disk: true"), format!("undo {node}")]);
    assert_eq!(ran.namespaces, ["/kube-system"]);
    // The fault is in effect for forty seconds until it is noticed, and proven once a second.
    let sustained = ran
        .events
        .iter()
        .filter(|event| matches!(event.what, What::Fault { phase: Sustained, .. }));
    let count = sustained.count();
    assert!((39..=41).contains(&count), "{count}");
    assert_eq!((moment(&ran.events, "noticed") - moment(&ran.events, "pause")) / 1000, 40);
    // The period of `never` has closed before the end.
    let last = ran.events.last().unwrap();
    assert_eq!(last.what, What::ScenarioEnded { id: "test/pause".into() });
    assert!(last.at_us / 1000 >= moment(&ran.events, "noticed") + 60_000);
    let applied =
        ran.events.iter().find(|event| matches!(event.what, What::Fault { phase: Applied, .. }));
    assert_eq!(applied.unwrap().error_us, 30_000);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_timeline() {
    let lines = |ran: Ran| -> Vec<String> {
        ran.events.iter().map(|event| serde_json::to_string(event).unwrap()).collect()
    };
    let first = lines(run("same-1", noticing(), NOTICED).await);
    assert!(first.len() > 100);
    assert_eq!(first, lines(run("same-2", noticing(), NOTICED).await));
}

#[tokio::test(start_paused = true)]
async fn an_unproven_fault_ends_the_scenario_and_is_taken_back() {
    let ran = run("unproven", Script { pauses_nothing: true, ..noticing() }, NOTICED).await;
    assert_eq!(ran.outcome.ending, Ending::FaultUnproven("pause".into()));
    assert_eq!(phases(&ran.events), [Planned, UndoLogged, Applied, Unproven, Removed, HealProven]);
    assert_eq!(ran.journal.len(), 2, "{:?}", ran.journal);
    assert!(!ran.outcome.is_quarantined && troubles(&ran.events).is_empty());
    let later = |event: &Event| matches!(&event.what, What::Moment { name } if name == "noticed");
    assert!(!ran.events.iter().any(later));
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_is_lost_ends_the_scenario() {
    let ran = run("lost", Script { goes_on_after: Some(10), ..noticing() }, NOTICED).await;
    assert_eq!(ran.outcome.ending, Ending::FaultLost("pause".into()));
    assert!(phases(&ran.events).ends_with(&[Sustained, Lost, Removed, HealProven]));
    // Whoever judges must know where clean-up begins: after the loss, before the healing.
    let place =
        |is: fn(&What) -> bool| ran.events.iter().position(|event| is(&event.what)).unwrap();
    let over = place(|what| matches!(what, What::StepsOver { why } if why.contains("`pause`")));
    assert!(place(|what| matches!(what, What::Fault { phase: Lost, .. })) < over);
    assert!(over < place(|what| matches!(what, What::Fault { phase: Removed, .. })));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_ends_the_scenario_after_its_window() {
    let ran = run("missed", Script { noticed_after: None, ..Script::default() }, NOTICED).await;
    assert_eq!(ran.outcome.ending, Ending::CheckMissed("step-1/eventually".into()));
    assert_eq!(phases(&ran.events), WHOLE_LIFE);
    let waited = moment(&ran.events, "end of pause") - moment(&ran.events, "pause");
    assert!((46_000..=48_000).contains(&waited), "{waited}");
    assert!(troubles(&ran.events).is_empty() && ran.namespaces == ["/kube-system"]);
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_does_not_heal_closes_the_cluster() {
    let plan = plan(NOTICED);
    let mut target = FakeTarget::new(Script { never_goes_on: true, ..noticing() });
    let mut recorder = Recorder::memory("fake", 11, Limits::default());
    let plans = [plan.clone(), Plan { scenario: "test/next".into(), ..plan }];
    let outcomes = run_pack(
        &mut target,
        &FakeTarget::cluster(),
        &plans,
        REGISTRY,
        &mut recorder,
        &mut UndoLog::memory(),
        &|_: &str| {},
    )
    .await;
    assert!(outcomes[0].is_quarantined);
    assert!(phases(recorder.events()).ends_with(&[Removed, HealUnproven]));
    assert!(!troubles(recorder.events()).is_empty());
    assert_eq!(
        outcomes[1].ending,
        Ending::Failed("the cluster was not healed after test/pause".into())
    );
}

/// How the healing of a fault on worker-1 came out, which cannot be shown while worker-2 stands still;
/// that ends as said.
async fn hidden(name: &str, ends: &str, script: Script) -> (Ran, FaultPhase) {
    let steps = format!(
        "
  steps:
  - {{fault: node-pause, on: worker-2, as: hides{ends}}}
  - {{fault: node-pause, on: worker-1, as: pause, for: 20s}}
  - {{wait: 240s, as: waited}}
"
    );
    let script = Script { hidden_by_the_other: Some("worker-1"), ..script };
    let ran = run(name, script, &steps).await;
    let mut healed = ran.events.iter().filter_map(|event| match &event.what {
        What::Fault { name, phase, .. } if name == "pause" => Some(*phase),
        _ => None,
    });
    let last = healed.next_back().unwrap();
    (ran, last)
}

#[tokio::test(start_paused = true)]
async fn a_healing_that_another_fault_hides_is_judged_when_that_is_over() {
    // The other one ends in its time while the healing is waited for.
    let (ran, last) = hidden("hidden", ", for: 60s", Script::default()).await;
    assert_eq!(ran.outcome.ending, Ending::Completed, "{:?}", troubles(&ran.events));
    assert_eq!((last, ran.outcome.is_quarantined), (HealProven, false));
    let lasted = moment(&ran.events, "end of hides") - moment(&ran.events, "hides");
    assert!((60_000..61_000).contains(&lasted), "{lasted}");
    assert!(moment(&ran.events, "end of pause") < moment(&ran.events, "end of hides") - 30_000);

    // It ends with the scenario: the steps go on, and the healing is shown in the end.
    let (ran, last) = hidden("hidden-long", "", Script::default()).await;
    assert_eq!(ran.outcome.ending, Ending::Completed, "{:?}", troubles(&ran.events));
    assert_eq!((last, ran.outcome.is_quarantined), (HealProven, false));
    assert!(moment(&ran.events, "waited") < moment(&ran.events, "end of hides"));

    // What does not heal is told, however long it was hidden.
    for (name, ends) in [("stuck", ", for: 60s"), ("stuck-long", "")] {
        let script = Script { never_goes_on: true, ..Script::default() };
        let (ran, last) = hidden(name, ends, script).await;
        assert_eq!((last, ran.outcome.is_quarantined), (HealUnproven, true), "{name}");
        assert!(!troubles(&ran.events).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn faults_end_where_the_file_says() {
    let for_a_time = "
  steps:
  - {fault: node-pause, on: worker-1, as: pause, for: 20s}
  - {wait: 50s, as: waited}
";
    let ran = run("for", Script::default(), for_a_time).await;
    assert_eq!(ran.outcome.ending, Ending::Completed, "{:?}", troubles(&ran.events));
    assert_eq!(phases(&ran.events), WHOLE_LIFE);
    let lasted = moment(&ran.events, "end of pause") - moment(&ran.events, "pause");
    assert!((20_000..20_100).contains(&lasted), "{lasted}");
    assert!(moment(&ran.events, "waited") >= moment(&ran.events, "end of pause") + 29_000);

    let until_a_moment = "
  steps:
  - {fault: node-pause, on: worker-1, as: pause, until: waited}
  - {wait: 7s, as: waited}
  - {wait: 5s}
";
    let ran = run("until", Script::default(), until_a_moment).await;
    let lag = moment(&ran.events, "end of pause") - moment(&ran.events, "waited");
    assert!(lag < 100, "{lag}");

    let until_true = "
  steps:
  - {fault: node-pause, on: worker-1, as: pause, until: {node: worker-1, status: {conditions: [{type: Ready, status: Unknown}]}}}
  - {wait: 60s}
";
    let ran = run("when", noticing(), until_true).await;
    let lasted = moment(&ran.events, "end of pause") - moment(&ran.events, "pause");
    assert!((40_000..41_100).contains(&lasted), "{lasted}");
}

#[tokio::test(start_paused = true)]
async fn the_undo_log_is_empty_in_the_end_and_full_after_a_kill() {
    let dir = folder("kill");
    let path = dir.join("undo.ndjson");
    let plan = plan(NOTICED);
    // Dropping the run in the middle is what SIGKILL looks like to the disk.
    let killed =
        tokio::time::timeout(Duration::from_secs(20), run_in(&dir, noticing(), &plan)).await;
    assert!(killed.is_err());
    assert_eq!(read_undo_log(&path).unwrap().len(), 1);
    std::fs::remove_file(&path).unwrap();
    run_in(&dir, noticing(), &plan).await;
    assert_eq!(read_undo_log(&path).unwrap(), []);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_witness_moves_on_when_its_server_dies() {
    let script = Script { first_server_dies_after: Some(39), ..noticing() };
    let ran = run("witness", script, NOTICED).await;
    // The server stays silent, so the cluster is not calm in the end; the steps were all done.
    assert_eq!(ran.outcome.ending, Ending::Completed);
    assert!(ran.outcome.is_quarantined);
    assert!(!ran.events.iter().any(|event| matches!(event.what, What::WitnessGap { .. })));
    let unknown = ran.events.iter().find(|event| match &event.what {
        What::Object { kind, object, .. } => {
            kind == "nodes" && object["status"]["conditions"][0]["status"] == "Unknown"
        }
        _ => false,
    });
    // The change was made while nobody watched: the error says so.
    let seen = unknown.unwrap();
    assert!(seen.error_us > 500_000, "{}", seen.error_us);
    let late = (moment(&ran.events, "noticed") - moment(&ran.events, "pause")) - 40_000;
    assert!(
        u128::from(seen.error_us) >= u128::from(late) * 1000,
        "{late} ms late, {} us error",
        seen.error_us
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_server_does_long_after_it_was_given_up_changes_nothing() {
    let steps = "
  steps:
  - {apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {value: first}}}
  - {wait: 20s}
  - {patch: {configmap: m, data: {value: second}}}
  - {patch: {configmap: m, data: {value: third}}}
  - {wait: 90s, as: late}
  - {settles: {configmap: m, data: {value: third}}, within: [0s, 5s], after: late}
";
    let script = Script { first_server_still: Some((15, 80)), ..Script::default() };
    let ran = run("late", script, steps).await;
    assert_eq!(ran.outcome.ending, Ending::Completed, "{:?}", troubles(&ran.events));
    let mut values: Vec<&str> = ran
        .events
        .iter()
        .filter_map(|event| match &event.what {
            What::Object { object, .. } if object["metadata"]["name"] == "m" => {
                object["data"]["value"].as_str()
            }
            _ => None,
        })
        .collect();
    // The witness may be told of one state twice, by two servers.
    values.dedup();
    assert_eq!(values, ["first", "second", "third"]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_as_soon_as_its_condition_is_true_and_else_in_time() {
    let steps = "
  given:
  - pod: bare
    on: any worker
    as: bare
  bind: {victim: node of $bare}
  steps:
  - {fault: node-pause, on: $victim, as: pause}
  - {wait: 90s, until: {node: $victim, status: {conditions: [{type: Ready, status: Unknown}]}}, as: noticed}
  - {wait: 90s, until: {node: $victim}, as: at-once}
  - {wait: 7s, until: {cel: \"cluster.seen['leader-changed'] > 0\"}, as: never}
  - {wait: 90s, until: {cel: \"cluster.seen['node-went-unknown'] > 0\"}, as: counted}
";
    let ran = run("wait-until", noticing(), steps).await;
    assert_eq!(ran.outcome.ending, Ending::Completed, "{:?}", troubles(&ran.events));
    let at = |name: &str| moment(&ran.events, name);
    // Proofs and requests take a few milliseconds.
    let about = |from: &str, to: &str, millis: u64| {
        let took = at(to) - at(from);
        assert!((millis..millis + 500).contains(&took), "{from} to {to}: {took} ms");
    };
    about("pause", "noticed", 40_000);
    about("noticed", "at-once", 0);
    about("at-once", "never", 7_000);
    about("never", "counted", 0);
}

#[tokio::test(start_paused = true)]
async fn every_members_store_is_hashed_at_one_revision() {
    let ran = run("hashes", noticing(), NOTICED).await;
    let hashes: Vec<(&str, u64, i64)> = ran
        .events
        .iter()
        .filter_map(|event| match &event.what {
            What::StoreHash { node, hash, revision, compacted: 2 } => {
                Some((node.as_str(), *hash, *revision))
            }
            _ => None,
        })
        .collect();
    assert_eq!(hashes, [("cp-1", 77, 7), ("cp-2", 77, 7)]);
}

#[tokio::test(start_paused = true)]
async fn clients_read_and_write_all_the_while() {
    let steps = "
  workload: {clients: 4, mix: {create: 2, update: 5, delete: 1, get: 4, list: 2, patch: 2, watch: 3}, over: configmaps, rate: 50/s}
  steps:
  - {wait: 30s}
  - {eventually: {cel: cluster.writes.succeeding}, within: [0s, 1s]}
";
    let ran = run("work", Script::default(), steps).await;
    assert_eq!(ran.outcome.ending, Ending::Completed, "{:?}", troubles(&ran.events));
    let operations: Vec<_> = ran
        .events
        .iter()
        .filter_map(|event| match &event.what {
            What::Operation(operation) => Some(operation),
            _ => None,
        })
        .collect();
    assert!((1200..1700).contains(&operations.len()), "{}", operations.len());
    for verb in ["create", "update", "delete", "get", "list", "patch"] {
        let good = operations
            .iter()
            .filter(|it| it.verb == verb && matches!(it.outcome, Outcome::Ok { .. }));
        assert!(good.count() > 10, "{verb}");
    }
    assert!(operations.iter().any(|it| matches!(it.outcome, Outcome::Refused { code: 409, .. })));
    let patches = |on_condition: bool| {
        let asked =
            move |it: &&&Operation| it.verb == "patch" && it.expected.is_some() == on_condition;
        operations.iter().filter(asked).count()
    };
    assert!(patches(true) > 10 && patches(false) > 10);
    let wants = |verb: &str, wanted: fn(&Reads) -> bool| {
        operations.iter().filter(|it| it.verb == verb && wanted(&it.reads)).count()
    };
    for verb in ["get", "list"] {
        assert!(wants(verb, |reads| *reads == Reads::Latest) > 10, "{verb}");
        assert!(wants(verb, |reads| *reads == Reads::Any) > 5, "{verb}");
        assert!(wants(verb, |reads| matches!(reads, Reads::NotOlderThan(1..))) > 5, "{verb}");
    }
    assert!(wants("list", |reads| matches!(reads, Reads::Exact(1..))) > 5);
    assert_eq!(wants("get", |reads| matches!(reads, Reads::Exact(_))), 0);
    let listed = operations.iter().filter_map(|it| it.listed.as_ref());
    assert!(listed.clone().count() > 50 && listed.map(|listed| listed.len()).sum::<usize>() > 50);
    let delivered =
        ran.events.iter().filter(|event| matches!(event.what, What::Delivered { .. })).count();
    assert!(delivered > 200, "{delivered}");
    let resumed = ran.events.iter().filter(|event| {
        matches!(&event.what, What::WatchStream { state, listed: None, .. } if state == "began")
    });
    assert!(resumed.count() > 1);
    // In the end every object is read once more.
    let last = operations.iter().filter(|it| it.client == 9).count();
    assert_eq!(last, 16);
}

#[tokio::test(start_paused = true)]
async fn what_the_target_cannot_do_is_not_run() {
    let mut plan = plan(NOTICED);
    plan.needs.push(shakedown_core::lever::LeverKind::Cut);
    let ran = run_in(&folder("needs"), noticing(), &plan).await;
    let Ending::NotRun(why) = &ran.outcome.ending else { panic!("{:?}", ran.outcome) };
    assert!(why.contains("Cut"), "{why}");
    assert!(ran.journal.is_empty());
    assert!(ran.events.iter().any(|event| matches!(event.what, What::NotRun { .. })));
}
