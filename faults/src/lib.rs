//! Faults: what a scenario asks for, built from levers and from writes through the API, and proven.
//!
//! One file per fault. A proof rests on three kinds of evidence: a counter or state that the target
//! reads, a behaviour seen by somebody who did not inject, and an untouched peer that behaves as
//! before. Without all three a fault is not in effect, whatever was pulled.

mod api;
mod between;
mod clock_skew;
mod container_kill;
mod cordon;
mod crash_at_write;
mod disk_loss;
mod etcd_compact;
mod etcd_leader_move;
mod evidence;
mod freeze_view;
mod halt;
mod hold_events;
mod meddling;
mod node_kill;
mod node_pause;
mod node_restart;
mod nodes;
mod partition;
mod pod_delete;
mod process_kill;
mod process_stop;
mod processes;
mod readings;
mod reset_connections;
mod rewind;
mod round_trips;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod scripted_levers;
#[cfg(test)]
mod scripted_life;
mod slow;
mod spec;
mod stamps;
mod taint;
mod taint_noexecute;
mod taints;

use shakedown_core::fault::{Fault, FaultKind, FaultSpec, SpecError};

/// Every kind of fault, in order of name.
pub const ALL: &[FaultKind] = &[
    clock_skew::KIND,
    container_kill::KIND,
    cordon::KIND,
    crash_at_write::KIND,
    disk_loss::KIND,
    etcd_compact::KIND,
    etcd_leader_move::KIND,
    freeze_view::KIND,
    hold_events::KIND,
    node_kill::KIND,
    node_pause::KIND,
    node_restart::KIND,
    partition::KIND,
    pod_delete::KIND,
    process_kill::KIND,
    process_stop::KIND,
    reset_connections::KIND,
    rewind::KIND,
    slow::KIND,
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

#[cfg(test)]
mod tests {
    use shakedown_core::yaml;

    use super::*;

    const GENERAL: &[&str] = &["fault", "on", "between", "from", "to", "for", "until", "as"];

    /// The step of a sample, with every role replaced by a name of its own.
    fn step(kind: &FaultKind) -> FaultSpec {
        let documents = yaml::parse(kind.name, kind.sample).expect("the sample is YAML");
        let fields = documents[0].value.as_object().expect("a step is a mapping").clone();
        assert_eq!(fields["fault"], kind.name);
        let mut spec = scripted::spec(kind.name, &[]);
        for (field, value) in fields {
            match field.as_str() {
                "on" => spec.on.push(value.as_str().expect("one role").to_owned()),
                "between" => {
                    let sides = value.as_array().expect("two sides");
                    spec.sides = sides.iter().map(|side| vec![side.to_string()]).collect();
                }
                other if GENERAL.contains(&other) => {}
                _ => {
                    assert!(kind.fields.contains(&field.as_str()), "{}: {field}", kind.name);
                    spec.fields.insert(field, value);
                }
            }
        }
        spec
    }

    #[test]
    fn every_sample_builds_what_the_registry_says() {
        for kind in ALL {
            let fault = build(&step(kind)).unwrap_or_else(|error| panic!("{}: {error}", kind.name));
            assert_eq!(fault.needs(), kind.needs, "{}", kind.name);
            assert!(!fault.targets().is_empty(), "{}", kind.name);
            assert!(kind.fields.is_sorted(), "{}", kind.name);
            assert_eq!(fault.undos().is_empty(), fault.is_momentary(), "{}", kind.name);
        }
    }

    #[test]
    fn the_registry_is_sorted_and_holds_every_file() {
        assert!(ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder of this file")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| {
                let text = std::fs::read_to_string(path).expect("a source file");
                text.contains("const KIND: FaultKind")
            })
            .map(|path| path.file_stem().expect("a name").to_string_lossy().replace('_', "-"))
            .filter(|name| name != "lib")
            .collect();
        files.sort();
        let names: Vec<_> = ALL.iter().map(|kind| kind.name).collect();
        assert_eq!(files, names);
    }

    #[test]
    fn the_sample_stands_in_the_manual_page() {
        for kind in ALL {
            let file = kind.name.replace('-', "_");
            let path = format!("{}/src/{file}.rs", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).expect("a source file");
            let page: Vec<_> =
                text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
            assert!(page.join("\n").contains(kind.sample.trim()), "{}", kind.name);
        }
    }

    #[test]
    fn an_unknown_fault_or_field_is_an_error_with_a_hint() {
        let error = build(&scripted::spec("node-kil", &["a"])).err().expect("unknown");
        assert_eq!(error.hint, "did you mean `node-kill`?");
        for kind in ALL {
            let mut spec = step(kind);
            spec.fields.insert("colour".to_owned(), "red".into());
            let error = build(&spec).err().unwrap_or_else(|| panic!("{} takes all", kind.name));
            assert_eq!(error.field, "colour");
            assert!(!error.hint.is_empty());
        }
    }

    #[test]
    fn a_step_without_targets_is_an_error() {
        // Compaction is done to etcd as a whole.
        for kind in ALL.iter().filter(|kind| kind.name != "etcd-compact") {
            let mut spec = step(kind);
            spec.on.clear();
            spec.sides.clear();
            let error = build(&spec).err().unwrap_or_else(|| panic!("{} hits nothing", kind.name));
            assert!(["on", "between"].contains(&error.field.as_str()), "{error:?}");
        }
    }
}
