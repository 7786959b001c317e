//! Faults: what a scenario asks for, built from levers and from writes through the API, and proven.
//!
//! One file per fault. A proof rests on three kinds of evidence: a counter or state that the target
//! reads, a behaviour seen by somebody who did not inject, and an untouched peer that behaves as
//! before. Without all three a fault is not in effect, whatever was pulled.

mod api;
mod container_kill;
mod cordon;
mod evidence;
mod node_kill;
mod node_pause;
mod node_restart;
mod nodes;
mod partition;
mod pod_delete;
mod process_kill;
mod process_stop;
mod processes;
#[cfg(test)]
mod scripted;
mod spec;
mod taint;
mod taint_noexecute;
mod taints;

use shakedown_core::fault::{Fault, FaultKind, FaultSpec, SpecError};

/// Every kind of fault, in order of name.
pub const ALL: &[FaultKind] = &[
    container_kill::KIND,
    cordon::KIND,
    node_kill::KIND,
    node_pause::KIND,
    node_restart::KIND,
    partition::KIND,
    pod_delete::KIND,
    process_kill::KIND,
    process_stop::KIND,
    taint::KIND,
    taint_noexecute::KIND,
];

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static FaultKind> {
    ALL.iter().find(|kind| kind.name == name)
}

/// Makes a bound fault of a step, or says what is wrong with the step.
pub fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let Some(kind) = find(&spec.fault) else {
        let names: Vec<_> = ALL.iter().map(|kind| kind.name).collect();
        return Err(SpecError {
            field: "fault".to_owned(),
            message: format!("unknown fault `{}`", spec.fault),
            hint: spec::nearest(&spec.fault, &names),
        });
    };
    (kind.build)(spec)
}
