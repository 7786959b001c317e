//! Tidy: the rules of the house that a compiler does not check. Reads the source tree as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file before its tests begin.
const LINES_MAX: usize = 600;

/// Files that are longer, with the reason. This list may only shrink.
const LONG_FILES: &[&str] = &[];

/// Which workspace crates a crate may use, tests included. No other edge exists.
const EDGES: &[(&str, &[&str])] = &[
    ("shakedown-env", &[]),
    ("shakedown-machinery", &[]),
    ("shakedown-storage", &["shakedown-env"]),
    ("shakedown-client", &["shakedown-env", "shakedown-machinery"]),
    ("shakedown-apiserver", &["shakedown-env", "shakedown-machinery", "shakedown-storage"]),
    ("shakedown-controllers", &["shakedown-client", "shakedown-env", "shakedown-machinery"]),
    ("shakedown-scheduler", &["shakedown-client", "shakedown-env", "shakedown-machinery"]),
    ("shakedown-kubelet", &["shakedown-client", "shakedown-env", "shakedown-machinery"]),
    ("orchestrator", CLUSTER),
    ("testapp", &[]),
    ("shakedown-core", &[]),
    ("shakedown-runner", &["shakedown-core"]),
    ("shakedown-judge", &["shakedown-core"]),
    ("shakedown-report", &["shakedown-core"]),
    ("shakedown-faults", &["shakedown-core"]),
    ("shakedown-agent", &["shakedown-core"]),
    ("shakedown-target-docker", &["shakedown-core"]),
    ("shakedown-target-sim", SIM),
    (
        "shakedown-explore",
        &[
            "shakedown-core",
            "shakedown-faults",
            "shakedown-judge",
            "shakedown-runner",
            "shakedown-target-sim",
        ],
    ),
    ("shakedown-suites", &["shakedown", "shakedown-core"]),
    ("shakedown", HARNESS),
    ("xtask", &[]),
];

const CLUSTER: &[&str] = &[
    "shakedown-apiserver",
    "shakedown-client",
    "shakedown-controllers",
    "shakedown-env",
    "shakedown-kubelet",
    "shakedown-machinery",
    "shakedown-scheduler",
    "shakedown-storage",
];

const SIM: &[&str] = &[
    "shakedown-apiserver",
    "shakedown-client",
    "shakedown-controllers",
    "shakedown-core",
    "shakedown-env",
    "shakedown-kubelet",
    "shakedown-machinery",
    "shakedown-scheduler",
    "shakedown-storage",
];

const HARNESS: &[&str] = &[
    "shakedown-core",
    "shakedown-explore",
    "shakedown-faults",
    "shakedown-judge",
    "shakedown-report",
    "shakedown-runner",
    "shakedown-suites",
    "shakedown-target-docker",
    "shakedown-target-sim",
];

/// Outside packages that come in by one door: the package's path in code, and where it may stand.
const DOORS: &[(&str, &[&str])] = &[
    ("testcontainers::", &["harness/target-docker/"]),
    ("bollard::", &["harness/target-docker/"]),
    (
        "serde_yaml::",
        &["harness/core/src/yaml.rs", "cluster-impl/", "ci/xtask/", "harness/target-docker/"],
    ),
    ("tabled::", &["harness/report/"]),
    ("k8s_cri::", &["cluster-impl/kubelet/src/runtimes/cri"]),
    ("etcd_client::", &["cluster-impl/storage/src/etcd"]),
    (
        "kube_cel::",
        &[
            "cluster-impl/apiserver/src/cel",
            "cluster-impl/machinery/src/custom/rules.rs",
            "harness/core/src/",
        ],
    ),
    ("mimalloc::", &["harness/cli/src/main.rs"]),
];

/// Folders whose files are entries of a registry: the folder, the file with the sorted list, and
/// files in the folder that are no entries.
const REGISTRIES: &[(&str, &str, &[&str])] = &[
    ("cluster-impl/machinery/src/kinds", "cluster-impl/machinery/src/kinds/mod.rs", &["mod"]),
    (
        "harness/judge/src/invariants",
        "harness/judge/src/invariants/mod.rs",
        &["eviction", "mod", "silence", "writes", "zones"],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace exists")
}

/// Every file that git would know, with its text, by its path from the root.
fn sources(extension: &str) -> BTreeMap<String, String> {
    let root = root();
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree can be read") {
            let path = entry.expect("an entry can be read").path();
            let name = path.file_name().expect("has a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "out" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|known| known == extension) {
                let shown = path.strip_prefix(&root).expect("lies in the root").to_string_lossy();
                found.insert(shown.into_owned(), fs::read_to_string(&path).expect("is text"));
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} file found: is the tree where it should be?");
    found
}

/// The part of a file before its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn crates_use_only_the_crates_that_the_design_allows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let packages = metadata["packages"].as_array().expect("has packages");
    let names: BTreeSet<&str> =
        packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("has a name");
        let Some(allowed) = allowed.get(name) else {
            broken.push(format!("{name} is not in the list of edges"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("has dependencies") {
            let used = dependency["name"].as_str().expect("has a name");
            if names.contains(used) && !allowed.contains(&used) {
                broken.push(format!("{name} uses {used}"));
            }
        }
    }
    report("edges that the design does not have", &broken);
}

#[test]
fn outside_packages_come_in_by_one_door() {
    let mut broken = Vec::new();
    for (path, text) in sources("rs") {
        for (package, doors) in DOORS {
            let inside = doors.iter().any(|door| path.starts_with(door));
            if !inside && !path.ends_with("tests/tidy.rs") && text.contains(package) {
                broken.push(format!("{path} uses {package}"));
            }
        }
    }
    report("packages used outside of their door", &broken);
}

#[test]
fn every_file_says_what_it_is_for_and_is_short_enough_to_read() {
    let mut broken = Vec::new();
    for (path, text) in sources("rs") {
        if !text.starts_with("//!") {
            broken.push(format!("{path} does not open with //!"));
        }
        let lines = code(&text).lines().count();
        if lines > LINES_MAX && !LONG_FILES.contains(&path.as_str()) {
            broken.push(format!("{path} has {lines} lines before its tests"));
        }
    }
    for path in LONG_FILES {
        let lines =
            fs::read_to_string(root().join(path)).map_or(0, |text| code(&text).lines().count());
        if lines <= LINES_MAX {
            broken.push(format!("{path} is no longer long: take it off the list"));
        }
    }
    report("files", &broken);
}

#[test]
fn every_select_is_biased() {
    let mut broken = Vec::new();
    for (path, text) in sources("rs") {
        for (number, line) in text.lines().enumerate() {
            let opens = line.contains("select! {") && !line.trim_start().starts_with("//");
            let next = text.lines().nth(number + 1).unwrap_or_default();
            if opens && !path.ends_with("tests/tidy.rs") && next.trim() != "biased;" {
                broken.push(format!("{path}:{}", number + 1));
            }
        }
    }
    report("a select! without `biased;` on its first line", &broken);
}

#[test]
fn nothing_unfinished_is_called_done() {
    let words =
        ["dbg!(", "todo!(", "unimplemented!(", "TODO", "FIXME", "#[ignore", "should_panic", "XXX"];
    let mut broken = Vec::new();
    for (path, text) in sources("rs") {
        if path.ends_with("tests/tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(*word)) {
                broken.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    report("words that say that something is not done", &broken);
}

#[test]
fn only_those_who_speak_to_people_print() {
    let speakers =
        ["harness/cli/", "harness/report/", "ci/xtask/", "cluster-impl/testapp/", "harness/agent/"];
    let mut broken = Vec::new();
    for (path, text) in sources("rs") {
        let speaks = speakers.iter().any(|speaker| path.starts_with(speaker));
        if !speaks && (code(&text).contains("println!") || code(&text).contains("print!(")) {
            if path.contains("/tests/") || path.contains("/examples/") {
                continue;
            }
            broken.push(path);
        }
    }
    report("prints", &broken);
}

#[test]
fn every_sabotage_has_a_scenario_that_catches_it() {
    let root = root();
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("can be read");
    let planted = read("cluster-impl/env/src/sabotage.rs");
    let planted = code(&planted)
        .lines()
        .filter_map(|line| line.trim().strip_suffix("\",")?.split_once(" = \""))
        .map(|(_, name)| name.to_owned());
    let list = read("suites/sabotages.yaml");
    let mut broken = Vec::new();
    let mut count = 0;
    for name in planted {
        count += 1;
        if !list.contains(&format!("sabotage: {name},")) {
            broken.push(name);
        }
    }
    assert!(count >= 40, "the list of sabotages was not found");
    report("sabotages that no scenario is named for in suites/sabotages.yaml", &broken);
}

#[test]
fn every_sabotage_of_the_harness_has_something_that_notices_it() {
    let root = root();
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("can be read");
    let planted = read("harness/core/src/sabotage.rs");
    let planted: Vec<String> = code(&planted)
        .lines()
        .filter_map(|line| line.trim().strip_suffix("\",")?.split_once(" = \""))
        .map(|(_, name)| name.to_owned())
        .collect();
    let list = read("suites/harness-sabotages.yaml");
    let is_missing = |name: &&String| !list.contains(&format!("sabotage: {name},"));
    let broken: Vec<String> = planted.iter().filter(is_missing).cloned().collect();
    assert!(planted.len() >= 15, "the list of sabotages of the harness was not found");
    report("sabotages that nothing is named for in suites/harness-sabotages.yaml", &broken);
}

#[test]
fn registries_match_their_folders() {
    let root = root();
    let mut broken = Vec::new();
    for (folder, list, others) in REGISTRIES {
        let text = fs::read_to_string(root.join(list)).expect("a registry's file can be read");
        let mut stems: Vec<String> = fs::read_dir(root.join(folder))
            .expect("a registry's folder can be read")
            .map(|entry| entry.expect("an entry can be read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .filter(|stem| !others.contains(&stem.as_str()))
            .collect();
        stems.sort();
        let mut last = 0;
        for stem in &stems {
            // An entry of the list begins a line with the file's name, or names it as a path.
            let entry = text
                .lines()
                .scan(0, |offset, line| {
                    let at = *offset;
                    *offset += line.len() + 1;
                    Some((at, line.trim().trim_start_matches('&')))
                })
                .filter(|(_, line)| !line.starts_with("mod ") && !line.starts_with("pub "))
                .find(|(_, line)| line.starts_with(&format!("{stem}::")));
            match entry {
                None => broken.push(format!("{folder}/{stem}.rs is not in the list of {list}")),
                Some((at, _)) if at < last => {
                    broken.push(format!("{stem} is out of order in {list}"));
                }
                Some((at, _)) => last = at,
            }
        }
    }
    report("registries", &broken);
}
