//! Every scenario of the suites as a test of its own, on the target `sim`.

mod trial;

use libtest_mimic::{Arguments, Trial};
use shakedown::pipeline::TargetName;

fn main() {
    let args = Arguments::from_args();
    let trials = trial::planned(&[])
        .into_iter()
        .map(|planned| {
            Trial::test(trial::name(&planned), move || {
                trial::passed(&trial::run(&planned, TargetName::Sim, "sim")?)
            })
        })
        .collect();
    libtest_mimic::run(&args, trials).exit();
}
