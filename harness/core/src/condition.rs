//! Conditions over a [`World`]: a partial object that must match, or a CEL expression, or both.
//!
//! CEL sees `objects.<plural>` (the scenario's namespace, the `kube-` namespaces and what has no
//! namespace), `cluster`, every bound name as a text, and `object` where a partial object is named.

use kube_cel::cel;
use serde::{Deserialize, Serialize};

use crate::expression;
pub use crate::expression::Sees;
use crate::kinds::{KINDS, Kind};
use crate::partial::Partial;
use crate::read::did_you_mean;
use crate::sometimes;
use crate::timeline::{Event, What};
use crate::world::{LEASES, Mark, World};

/// What must be true.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Condition {
    /// An object that must be there (or must not) and match.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub object: Option<Partial>,
    /// A CEL expression that must be true.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cel: Option<String>,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.object, &self.cel) {
            (Some(object), Some(cel)) => write!(f, "{object} with {cel}"),
            (Some(object), None) => write!(f, "{object}"),
            (None, Some(cel)) => f.write_str(cel),
            (None, None) => f.write_str("anything"),
        }
    }
}

/// A name without its namespace.
pub fn plain_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Why a condition means nothing, or has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConditionError {
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub hint: String,
}

pub(crate) fn error(message: impl Into<String>, hint: impl Into<String>) -> ConditionError {
    ConditionError { message: message.into(), hint: hint.into() }
}

/// A condition that can be asked for its truth, again and again. It remembers the last answer
/// for as long as nothing that it can see has changed. It belongs to one world (or to worlds that took in
/// the same events): ask another world with another one.
#[derive(Debug)]
pub struct Compiled {
    condition: Condition,
    program: Option<cel::Program>,
    sees: Sees,
    kinds: Vec<String>,
    last: Option<(Mark, Result<bool, ConditionError>)>,
}

impl Compiled {
    /// Compiles; fails on syntax, on unknown plurals and on `object` without an object.
    pub fn new(condition: &Condition) -> Result<Self, ConditionError> {
        let (program, sees) = match &condition.cel {
            Some(source) => {
                let program = expression::compile(source)?;
                let sees = expression::sees(&program);
                (Some(program), sees)
            }
            None => (None, Sees::default()),
        };
        let plurals: Vec<&str> =
            KINDS.iter().filter(|kind| kind.is_watched).map(Kind::plural).collect();
        for plural in &sees.plurals {
            if !plurals.contains(&plural.as_str()) {
                return Err(error(
                    format!("`objects.{plural}` is watched by nobody"),
                    did_you_mean(plural, &plurals),
                ));
            }
        }
        if let Some(field) = sees.tests.first() {
            return Err(error(
                format!("`has(..{field})` is always true: without a value it is empty or zero"),
                "drop the `has()`, and compare the field with a value",
            ));
        }
        let seen: Vec<&str> = sometimes::names().collect();
        if let Some(name) = sees.seen.iter().find(|name| !seen.contains(&name.as_str())) {
            return Err(error(
                format!("`cluster.seen` counts no `{name}`"),
                did_you_mean(name, &seen),
            ));
        }
        if sees.has("object") && condition.object.is_none() {
            return Err(error(
                "`object` stands for no object here",
                "name one beside `cel`, such as `pod: web-0`, or use `objects.pods`",
            ));
        }
        let mut kinds: Vec<String> = KINDS
            .iter()
            .filter(|kind| sees.plurals.iter().any(|plural| plural == kind.plural()))
            .chain(KINDS.iter().filter(|_| sees.plurals.is_empty() && sees.has("objects")))
            .map(|kind| kind.id.to_string())
            .collect();
        kinds.extend(condition.object.iter().map(|object| object.kind.clone()));
        Ok(Self { condition: condition.clone(), program, sees, kinds, last: None })
    }

    /// The condition.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// What its expression speaks of.
    pub fn sees(&self) -> &Sees {
        &self.sees
    }

    /// Whether an event can change the answer. Between two that can, nothing that it sees changes.
    pub fn can_change(&self, event: &Event) -> bool {
        let facts = self.sees.has("cluster");
        if facts && self.sees.has_counts() {
            // What is counted is seen in events of every sort.
            return true;
        }
        match &event.what {
            What::ScenarioBegan { .. } | What::Bound { .. } => true,
            What::Object { kind, .. } => {
                self.kinds.iter().any(|seen| seen == kind) || (facts && kind == LEASES)
            }
            What::Cluster { .. }
            | What::Fault { .. }
            | What::Operation(_)
            | What::EtcdMember { .. }
            | What::Container { .. } => facts,
            _ => false,
        }
    }

    /// Whether it is true now. An error means that there is no answer: it is neither true nor false.
    pub fn holds(&mut self, world: &World) -> Result<bool, ConditionError> {
        let mark = world.mark(&self.kinds, self.sees.has_other_facts(), self.sees.has_counts());
        if let Some((seen, answer)) = &self.last
            && *seen == mark
        {
            return answer.clone();
        }
        let answer = self.evaluate(world);
        self.last = Some((mark, answer.clone()));
        answer
    }

    fn evaluate(&self, world: &World) -> Result<bool, ConditionError> {
        let object = match &self.condition.object {
            Some(partial) => {
                if !partial.holds(world)? {
                    return Ok(false);
                }
                partial.shown(world)?.map(|shown| (partial.kind.as_str(), shown))
            }
            None => None,
        };
        let Some(program) = &self.program else { return Ok(true) };
        let mut context = expression::scope();
        if let Some((kind, shown)) = object
            && self.sees.has("object")
        {
            context.add_variable_from_value("object", shown.value(kind));
        }
        if self.sees.has("cluster") {
            let facts = world.facts(|fact| self.sees.has_fact(fact));
            context.add_variable_from_value("cluster", expression::value(&facts));
        }
        if self.sees.has("objects") {
            context.add_variable_from_value("objects", expression::objects(world, &self.kinds));
        }
        for name in &self.sees.names {
            if let Some(to) = world.bound(name) {
                context.add_variable_from_value(name.as_str(), expression::bound(to));
            }
        }
        match program.execute(&context) {
            Ok(cel::Value::Bool(answer)) => Ok(answer),
            Ok(other) => Err(error(
                format!("the expression gave {other:?}, not true or false"),
                "compare it with something",
            )),
            Err(why) => Err(error(
                format!("the expression has no answer: {why}"),
                "guard fields that may be absent with `has(..) &&`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Change, Event, What};
    use serde_json::{Value, json};

    fn world(whats: Vec<What>) -> World {
        let mut world = World::new();
        let mut seq = 0;
        let mut see = |what| {
            world.apply(&Event { seq, at_us: seq, error_us: 0, scenario: "s".into(), what });
            seq += 1;
        };
        see(What::Bound { name: "namespace".into(), to: vec!["shop".into()] });
        see(What::Bound { name: "victim".into(), to: vec!["worker-1".into()] });
        see(What::Bound { name: "bare".into(), to: vec!["shop/bare".into()] });
        whats.into_iter().for_each(&mut see);
        world
    }

    fn object(kind: &str, object: Value) -> What {
        let object = object.into();
        What::Object { change: Change::Added, kind: kind.into(), revision: 1, object }
    }

    fn pod(namespace: &str, name: &str, node: Option<&str>, deleted: bool) -> What {
        let mut pod = json!({"metadata": {"namespace": namespace, "name": name}, "spec": {}});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        object("pods", pod)
    }

    fn ask(cel: &str, world: &World) -> Result<bool, ConditionError> {
        Compiled::new(&Condition { object: None, cel: Some(cel.into()) })?.holds(world)
    }

    const GOING: &str =
        "objects.pods.exists(p, p.spec.nodeName == victim && has(p.metadata.deletionTimestamp))";
    const GONE: &str = "objects.pods.filter(p, p.spec.nodeName == victim).all(p, has(p.metadata.deletionTimestamp))";

    #[test]
    fn whether_there_is_a_field_that_always_is_there_is_no_question() {
        for (cel, is_refused) in [
            ("objects.pods.exists(p, has(p.spec.nodeName))", true),
            ("objects.nodes.all(n, !has(n.spec.taints))", true),
            ("objects.pods.exists(p, has(p.metadata.labels))", true),
            ("objects.pods.exists(p, has(p.metadata.labels.app))", false),
            ("objects.pods.exists(p, has(p.metadata.deletionTimestamp))", false),
            ("objects.pods.exists(p, p.spec.nodeName == 'a')", false),
        ] {
            let condition = Condition { object: None, cel: Some(cel.to_owned()) };
            let refused = Compiled::new(&condition).err();
            assert_eq!(refused.is_some(), is_refused, "{cel}: {refused:?}");
            assert!(refused.is_none_or(|error| error.message.contains("always true")));
        }
    }

    #[test]
    fn expressions_see_the_scenarios_own_objects() {
        let quiet = vec![pod("shop", "a", Some("worker-1"), false), pod("shop", "b", None, false)];
        let mut going = quiet.clone();
        going.push(pod("shop", "c", Some("worker-1"), true));
        let mut elsewhere = quiet.clone();
        elsewhere.push(pod("other", "c", Some("worker-1"), true));
        assert_eq!(ask(GOING, &world(quiet.clone())), Ok(false));
        assert_eq!(ask(GOING, &world(going.clone())), Ok(true));
        assert_eq!(ask(GOING, &world(elsewhere)), Ok(false));
        assert_eq!(ask(GONE, &world(going)), Ok(false));
        assert_eq!(ask(GONE, &world(vec![pod("shop", "c", Some("worker-1"), true)])), Ok(true));
    }

    #[test]
    fn whole_numbers_and_zero_values_compare_as_written() {
        let set = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"replicas": 6}, "status": {}});
        let world = world(vec![object("deployments.apps", set)]);
        assert_eq!(ask("objects.deployments.all(d, d.spec.replicas == 6)", &world), Ok(true));
        assert_eq!(
            ask("objects.deployments.all(d, d.status.readyReplicas == 0)", &world),
            Ok(true)
        );
        assert_eq!(ask("bare == 'bare' && victim in ['worker-1']", &world), Ok(true));
        assert_eq!(ask("cluster.writes.succeeding", &world), Ok(false));
    }

    #[test]
    fn no_answer_is_an_error_and_not_false() {
        let world = world(vec![pod("shop", "a", None, false)]);
        let error = ask("objects.pods.all(p, p.status.phase == 'Running')", &world).unwrap_err();
        assert!(error.message.contains("no answer"), "{error}");
        let error = ask("1 + 1", &world).unwrap_err();
        assert!(error.message.contains("not true or false"), "{error}");
    }

    #[test]
    fn whoever_asks_for_counts_looks_at_every_event() {
        let going = pod("shop", "a", None, true);
        let event = Event { seq: 0, at_us: 0, error_us: 0, scenario: "s".into(), what: going };
        for (cel, can_change) in [
            ("cluster.seen['pod-evicted'] > 0", true),
            ("cluster.etcd.leader != ''", false),
            ("objects.nodes.exists(n, true)", false),
            ("objects.pods.exists(p, true)", true),
        ] {
            let condition = Condition { object: None, cel: Some(cel.into()) };
            let compiled = Compiled::new(&condition).unwrap();
            assert_eq!(compiled.can_change(&event), can_change, "{cel}");
        }
    }

    #[test]
    fn only_the_facts_that_are_asked_for_are_made() {
        for (cel, wanted, other) in [
            ("cluster.seen['pod-evicted'] > 0", "seen", "containers"),
            ("cluster.tally.nodesReady == 3", "tally", "containers"),
            ("cluster.containers.exists(c, c.node == 'a')", "containers", "seen"),
        ] {
            let program = expression::compile(cel).unwrap();
            let sees = expression::sees(&program);
            assert!(sees.has_fact(wanted) && !sees.has_fact(other), "{cel}");
        }
        let whole =
            expression::sees(&expression::compile("cluster['seen'] == cluster.seen").unwrap());
        assert!(whole.has_fact("containers"), "who names the whole may look at anything");
    }

    #[test]
    fn mistakes_are_found_without_a_world() {
        for (cel, message, hint) in [
            ("objects.podz.size() == 0", "objects.podz", "pods"),
            ("objects.pods.exists(p", "not a CEL expression", ""),
            ("object.status.phase == 'x'", "stands for no object", "objects.pods"),
        ] {
            let condition = Condition { object: None, cel: Some(cel.into()) };
            let error = Compiled::new(&condition).map(|_| ()).unwrap_err();
            assert!(error.message.contains(message), "{cel}: {error:?}");
            assert!(error.hint.contains(hint), "{cel}: {error:?}");
        }
    }

    #[test]
    fn an_answer_is_kept_only_while_nothing_changes() {
        let condition = Condition { object: None, cel: Some(GOING.into()) };
        let mut compiled = Compiled::new(&condition).unwrap();
        let mut world = world(vec![pod("shop", "a", Some("worker-1"), false)]);
        assert_eq!(compiled.holds(&world), Ok(false));
        let what = pod("shop", "a", Some("worker-1"), true);
        world.apply(&Event { seq: 9, at_us: 9, error_us: 0, scenario: "s".into(), what });
        assert_eq!(compiled.holds(&world), Ok(true));
        let what = What::Bound { name: "victim".into(), to: vec!["worker-2".into()] };
        world.apply(&Event { seq: 10, at_us: 10, error_us: 0, scenario: "s".into(), what });
        assert_eq!(compiled.holds(&world), Ok(false));
    }
}
