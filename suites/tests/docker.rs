//! Every scenario of the suites as a test of its own, on the target `docker`.
//!
//! Each boots a cluster of its own, or uses the one of `shakedown up` that `SHAKEDOWN_CLUSTER` names.
//! Without a Docker daemon the tests are listed as ignored.

mod trial;

use libtest_mimic::{Arguments, Trial};
use shakedown::pipeline::TargetName;

fn main() {
    let args = Arguments::from_args();
    let has_docker = std::process::Command::new("docker")
        .arg("info")
        .output()
        .is_ok_and(|output| output.status.success());
    let trials = trial::planned(&[])
        .into_iter()
        .map(|planned| {
            Trial::test(trial::name(&planned), move || {
                trial::passed(&trial::run(&planned, TargetName::Docker, "docker")?)
            })
            .with_ignored_flag(!has_docker)
        })
        .collect();
    libtest_mimic::run(&args, trials).exit();
}
