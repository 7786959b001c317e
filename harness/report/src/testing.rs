//! A run with every verdict in it, for tests.

use shakedown_core::verdict::{CheckVerdict, RunVerdict, ScenarioVerdict, Verdict};

type Observed = (Option<f64>, Option<[f64; 2]>, f64);

fn check(id: &str, verdict: Verdict, observed: Observed, message: &str) -> CheckVerdict {
    let (observed_ms, window_ms, error_ms) = observed;
    let (id, message) = (id.to_owned(), message.to_owned());
    CheckVerdict { id, verdict, observed_ms, window_ms, error_ms, message }
}

fn scenario(id: &str, title: &str, checks: Vec<CheckVerdict>) -> ScenarioVerdict {
    ScenarioVerdict {
        id: id.to_owned(),
        title: title.to_owned(),
        verdict: Verdict::worst(checks.iter().map(|check| check.verdict)),
        behaviours: vec!["node-controller/unreachable-after-grace".to_owned()],
        checks,
        wall_ms: 1_250,
        virtual_ms: 344_910,
    }
}

/// One scenario of each verdict.
#[expect(clippy::too_many_lines, reason = "it is data")]
pub(crate) fn run() -> RunVerdict {
    let window = Some([30_000.0, 45_000.0]);
    let scenarios = vec![
        scenario(
            "resilience/node-killed",
            "A killed node is noticed after the grace period",
            vec![
                check(
                    "fault/kill",
                    Verdict::Pass,
                    (Some(210.0), None, 0.0),
                    "node-kill on worker-1: proven",
                ),
                check(
                    "step-1/eventually",
                    Verdict::Pass,
                    (Some(39_062.0), window, 12.0),
                    "Unknown after 39.06 s (event 412)",
                ),
            ],
        ),
        scenario(
            "resilience/node-paused",
            "A paused node is noticed after the grace period",
            vec![
                check(
                    "fault/pause",
                    Verdict::Pass,
                    (Some(24.0), None, 0.0),
                    "node-pause on worker-2: proven",
                ),
                check(
                    "step-1/eventually",
                    Verdict::Fail,
                    (Some(20_004.0), window, 12.0),
                    "eventually `node worker-2 matches {\"status\":\"Unknown\"}` after `pause`: true after \
                     20.00 s ± 0.01 s, promised within [30.00 s, 45.00 s] (event 398)",
                ),
                check(
                    "invariant/no-lost-acknowledged-write",
                    Verdict::Fail,
                    (None, None, 0.0),
                    "update of shop/a & <b> by client 3 (event 17) was acknowledged at 1234 and lost",
                ),
            ],
        ),
        scenario(
            "resilience/partition",
            "A cut is seen by both sides",
            vec![check(
                "fault/cut",
                Verdict::Invalid,
                (None, None, 0.0),
                "partition: not proven in effect: cut cut-to at cp-2: 0 packets dropped",
            )],
        ),
        scenario(
            "resilience/stuck",
            "A healed node comes back",
            vec![check(
                "fault/kill",
                Verdict::Harness,
                (None, None, 0.0),
                "node-kill: never removed",
            )],
        ),
        scenario(
            "resilience/disk",
            "A full disk is noticed",
            vec![check(
                "abilities",
                Verdict::NotRun,
                (None, None, 0.0),
                "target `sim` cannot fill a disk",
            )],
        ),
    ];
    RunVerdict { scenarios, wall_ms: 6_250, virtual_ms: 1_724_550, ..empty() }
}

/// A run of nothing.
pub(crate) fn empty() -> RunVerdict {
    RunVerdict {
        format: 1,
        target: "sim".to_owned(),
        seed: 7,
        started: "2026-01-01T00:00:00Z".to_owned(),
        wall_ms: 0,
        virtual_ms: 0,
        scenarios: vec![],
    }
}
